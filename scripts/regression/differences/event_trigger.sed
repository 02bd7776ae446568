# It lists all event triggers. Rows of cachetag's go, and the layout that they brought.
/^ (cachetag_[a-z_]+|zz_regress_cachetag) +\|/d
s/ +/ /g
s/-+/-/g
s/^\([0-9]+ rows?\)$/(rows)/
