# A captured query runs in one process: a hash table that its workers would have filled together is smaller, and gets its batches otherwise.
s/^ +1 \| +[24]$/ 1 | 2 or 4/
