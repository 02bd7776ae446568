"""Django's own tests of a cache backend (tests/cache of its source distribution, which scripts/examples.sh unpacks), for this one."""

import os
import sys

import django
from django.conf import settings

if __name__ == "__main__":
    settings.configure(
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        INSTALLED_APPS=["cache"],
        CACHES={"default": {"BACKEND": "cachetag_django.CachetagCache", "LOCATION": os.environ["REDIS_URL"], "OPTIONS": {"group": "suite"}}},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        SECRET_KEY="tests",
        USE_TZ=False,
        ROOT_URLCONF="own_suite_tests",
    )
    django.setup()
    from django.test.runner import DiscoverRunner

    sys.exit(bool(DiscoverRunner(verbosity=int(os.environ.get("VERBOSITY", 1))).run_tests(["own_suite_tests"])))
