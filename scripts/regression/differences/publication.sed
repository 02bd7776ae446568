# It lists all publications and their tables. Rows of cachetag's, which has no comment, go, and the layout that they brought.
/^ cachetag +\|/d
/^ obj_description  $/,/^\(/{
    /^ $/d
}
s/ +/ /g
s/-+/-/g
s/^\([0-9]+ rows?\)$/(rows)/
