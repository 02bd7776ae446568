//! What can be told from the text of a statement, and from what the server says was done.

/// What of a statement's end says that nothing was changed: no cached result has to be looked at.
const QUIET: &[&str] = &[
    "BEGIN",
    "CLOSE CURSOR",
    "DEALLOCATE",
    "DECLARE CURSOR",
    "DISCARD",
    "EXPLAIN",
    "FETCH",
    "LISTEN",
    "MOVE",
    "NOTIFY",
    "PREPARE",
    "RESET",
    "SET",
    "SHOW",
    "START TRANSACTION",
    "UNLISTEN",
];

/// Settings that choose among plans, and must not change a result.
const PLANNING: &[&str] = &[
    "enable_",
    "max_parallel_",
    "min_parallel_",
    "parallel_",
    "work_mem",
    "random_page_cost",
    "seq_page_cost",
    "cpu_",
    "force_parallel_mode",
    "debug_parallel_query",
    "jit",
    "geqo",
    "join_collapse_limit",
    "from_collapse_limit",
    "effective_",
    "plan_cache_mode",
    "constraint_exclusion",
    "client_min_messages",
    "hash_mem_multiplier",
];

/// Words that may change what the session's own names mean: nobody else's result changes by that, and so no tag tells of it.
const OWN: &[&str] = &["temp", "temporary", "pg_temp", "set_config", "authorization", "role", "discard"];

/// What depends on the order of rows where nothing else says it.
const ORDERED: &[&str] = &[
    "limit",
    "offset",
    "fetch",
    "over",
    "window",
    "array_agg",
    "string_agg",
    "xmlagg",
    "json_agg",
    "jsonb_agg",
    "json_object_agg",
    "on",
];

/// Does the data determine the rows of a query, whatever the plan? Where the text lets one doubt, it is not asked for again.
pub(super) fn is_determined(text: &str) -> bool {
    let text = without_comments(text).to_ascii_lowercase();
    let words: Vec<&str> =
        text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty()).collect();
    let doubtful =
        |at: usize| ORDERED.contains(&words[at]) && (words[at] != "on" || at > 0 && words[at - 1] == "distinct");
    words.windows(2).any(|pair| pair == ["order", "by"]) || !(0..words.len()).any(doubtful)
}

/// Is it one query that reads, as far as its text tells?
pub(super) fn is_query(text: &str) -> bool {
    let text = without_comments(text);
    let text = text.trim().trim_end_matches(';');
    let first = text.trim_start_matches(|c: char| c == '(' || c.is_whitespace());
    let word: String = first.chars().take_while(char::is_ascii_alphabetic).collect();
    matches!(word.to_ascii_lowercase().as_str(), "select" | "with" | "values" | "table") && !text.contains(';')
}

/// May something have changed for others?
pub(super) fn is_quiet(command: &str) -> bool {
    QUIET.iter().any(|quiet| command.strip_prefix(quiet).is_some_and(|rest| rest.is_empty() || rest.starts_with(' ')))
}

/// May the same query answer something else in this session afterwards, though for nobody else?
pub(super) fn changes_session(text: &str) -> bool {
    let text = without_comments(text).to_ascii_lowercase();
    let words = || text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty());
    if words().any(|word| OWN.contains(&word)) {
        return true;
    }
    let mut words = words();
    while let Some(word) = words.next() {
        if word == "set" || word == "reset" {
            let name = words.by_ref().find(|word| !matches!(*word, "local" | "session"));
            // `SET x = …` of an UPDATE is taken for a setting, too.
            if !name.is_some_and(|name| PLANNING.iter().any(|known| name.starts_with(known))) {
                return true;
            }
        }
    }
    false
}

/// Comments gone, literals as they are.
fn without_comments(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if rest.starts_with("--") {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
        } else if rest.starts_with("/*") {
            rest = rest.find("*/").map_or("", |end| &rest[end + 2..]);
            kept.push(' ');
        } else if first == '\'' {
            let end = rest[1..].find('\'').map_or(rest.len(), |end| end + 2);
            kept.push_str(&rest[..end]);
            rest = &rest[end..];
        } else {
            kept.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_told_from_the_rest() {
        for text in
            ["select 1;", " -- a\n/* b */ (SELECT 1) UNION (SELECT 2)", "with a as (select 1) table a", "VALUES (1)"]
        {
            assert!(is_query(text), "{text}");
        }
        for text in ["insert into t values (1)", "select 1; select 2", "explain select 1", "selection", ""] {
            assert!(!is_query(text), "{text}");
        }
    }

    #[test]
    fn queries_whose_rows_the_plan_determines_are_told() {
        for text in
            ["select 1 from a join b on a.x = b.x", "select x from t order by x limit 1", "select distinct x from t"]
        {
            assert!(is_determined(text), "{text}");
        }
        for text in ["select x from t limit 1", "select distinct on (x) y from t", "SELECT array_agg(x) FROM t"] {
            assert!(!is_determined(text), "{text}");
        }
    }

    #[test]
    fn what_the_server_says_was_done() {
        assert!(is_quiet("SET") && is_quiet("FETCH 3") && !is_quiet("UPDATE 1") && !is_quiet("SELECT 1"));
    }

    #[test]
    fn settings_of_the_session_are_told_from_those_of_the_planner() {
        for text in [
            "set datestyle to iso",
            "SET ROLE x",
            "create temp table t (i int)",
            "set enable_seqscan = off; reset datestyle",
        ] {
            assert!(changes_session(text), "{text}");
        }
        for text in [
            "set enable_seqscan = off",
            "SET LOCAL work_mem = '1MB'",
            "insert into t values (1)",
            "reset enable_sort -- role",
        ] {
            assert!(!changes_session(text), "{text}");
        }
    }
}
