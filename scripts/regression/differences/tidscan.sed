# A capture reads cachetag's rules within the transaction; a serializable one notes that it has.
/^ relation +\| SIReadLock$/d
s/^\([12] rows?\)$/(rows)/
