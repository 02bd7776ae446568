from cache.tests import BaseCacheTests, caches_setting_for_tests  # Django's
from django.conf import settings
from django.test import TestCase, override_settings


@override_settings(CACHES=caches_setting_for_tests(base=settings.CACHES["default"], exclude={"cull", "zero_cull"}))
class CachetagTests(BaseCacheTests, TestCase):
    # Redis evicts, not the client: as for Django's own Redis backend there is no culling.
    test_cull = test_zero_cull = test_cull_delete_when_store_empty = None


urlpatterns = []
