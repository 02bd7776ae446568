# One query lists the functions that are SECURITY DEFINER: PostgreSQL itself has none. Rows of objects made after initdb go, and the layout that
# they brought.
/^ (1[6-9]|[2-9][0-9])[0-9]{3} \|/d
s/ +/ /g
s/-+/-/g
s/^ oid \| proname $/ oid | proname/
s/^\([0-9]+ rows?\)$/(rows)/
