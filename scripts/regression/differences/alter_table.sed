# It lists the locks that each ALTER TABLE holds: cachetag's event triggers look at its rules. Their rows go, and the layout that they brought.
/^ (binding|rule)(_[a-z_]+)? +\| Access/d
s/ +/ /g
s/-+/-/g
s/^ relname \| max_lockmode $/ relname | max_lockmode/
s/^\([0-9]+ rows?\)$/(rows)/
