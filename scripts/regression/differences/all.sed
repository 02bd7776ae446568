# In every test. \d tells in which publications a table is, and \d+ that it is logged as whole rows.
/^Publications:$/d
/^    "cachetag"$/d
/^Replica Identity: FULL$/d
# A table that inherits from a tracked one is published with it, and gets a replica identity if it has none, so that its writers do not fail.
/^WARNING:  table .* was left without a replica identity and has got REPLICA IDENTITY FULL$/,/^HINT:  Give it a primary key/d
