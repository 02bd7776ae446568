# In every test. \d tells in which publications a table is, and \d+ that it is logged as whole rows.
/^Publications:$/d
/^    "cachetag"$/d
/^Replica Identity: FULL$/d
