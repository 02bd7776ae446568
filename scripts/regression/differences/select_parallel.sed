# A captured query runs in one process: no worker is launched, and errors do not come from one. What EXPLAIN ANALYZE says of workers and of rows for each goes,
# and the layout that it brought.
/^CONTEXT:  parallel worker$/d
/^parallel worker$/d
/^ *Workers Launched: [0-9]+$/d
/^ *Worker [0-9]+:  Sort Method/d
s/^( *Rows Removed by Filter:) [0-9]+$/\1 N/
s/\(actual rows=[0-9]+ loops=[0-9]+\)/(actual rows=N loops=N)/
s/ +/ /g
s/-+/-/g
s/^\([0-9]+ rows\)$/(rows)/
