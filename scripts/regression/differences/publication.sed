# Lists of all publications have cachetag's, which has no comment.
/^ cachetag +\| postgres/d
/^ obj_description  $/,/^\(/{
    /^ $/d
}
s/^\([0-9]+ rows?\)$/(rows)/
