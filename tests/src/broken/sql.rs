//! The extension without a guard: functions of the test's database, replaced by what they are without a line.

/// Every lock that a table's joining the publication takes, and the functions that take them.
const LOCKS: [(&str, &str); 2] = [
    (
        "cachetag.track(regclass, text[], text[], text[], boolean, text, text)",
        "PERFORM cachetag._lock_tree(rel, exclusive);",
    ),
    ("cachetag._publish(oid)", "PERFORM cachetag._lock_tree(rel, false);"),
];

/// SQL that takes the lock out of joining; it fails when a function no longer has its line exactly once.
pub(super) fn without_lock() -> String {
    LOCKS.map(|(function, line)| without(function, line)).join("\n")
}

fn without(function: &str, line: &str) -> String {
    format!(
        "DO $do$
         DECLARE
             definition text := pg_get_functiondef('{function}'::regprocedure);
         BEGIN
             IF cardinality(string_to_array(definition, '{line}')) <> 2 THEN
                 RAISE EXCEPTION '{function} must have % exactly once', '{line}';
             END IF;
             EXECUTE replace(definition, '{line}', '');
         END $do$;"
    )
}
