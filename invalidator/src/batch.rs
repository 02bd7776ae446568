//! Commits that wait for the next call to Redis. A batch forms by itself while the previous call is in flight; there is no timer.

use std::collections::HashMap;

use cachetag_core::Lsn;

/// Bumps of whole commits, each tag once, at the version of the last commit that touched it: the batch is applied atomically,
/// so what came in between can be seen by nobody.
#[derive(Debug, Default)]
pub struct Batch {
    hard: HashMap<Box<str>, Lsn>,
    soft: HashMap<Box<str>, Lsn>,
    end: Option<Lsn>,
    commits: usize,
}

/// The bumps of one version, ready to be sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Group<'a> {
    /// End LSN of the commit.
    pub lsn: Lsn,
    /// Hard bumps.
    pub hard: Vec<&'a str>,
    /// Soft bumps.
    pub soft: Vec<&'a str>,
}

impl Batch {
    /// Adds a commit; commits come in order of their end LSN.
    pub fn push<'a>(
        &mut self,
        end: Lsn,
        hard: impl IntoIterator<Item = &'a str>,
        soft: impl IntoIterator<Item = &'a str>,
    ) {
        for tag in hard {
            bump(&mut self.hard, tag, end);
        }
        for tag in soft {
            bump(&mut self.soft, tag, end);
        }
        self.end = Some(end);
        self.commits += 1;
    }

    /// End of the last commit; `None` when there is none.
    pub fn end(&self) -> Option<Lsn> {
        self.end
    }

    /// Number of commits.
    pub fn commits(&self) -> usize {
        self.commits
    }

    /// Number of distinct bumps.
    pub fn tags(&self) -> usize {
        self.hard.len() + self.soft.len()
    }

    /// The bumps by version, ascending. A soft bump that a later hard one overtakes is left out.
    pub fn groups(&self) -> Vec<Group<'_>> {
        let mut bumps: Vec<(Lsn, bool, &str)> = self.hard.iter().map(|(tag, &lsn)| (lsn, false, &**tag)).collect();
        bumps.extend(self.soft.iter().filter_map(|(tag, &lsn)| {
            let overtaken = self.hard.get(tag).is_some_and(|&hard| hard >= lsn);
            (!overtaken).then_some((lsn, true, &**tag))
        }));
        bumps.sort_unstable_by_key(|&(lsn, _, _)| lsn);
        let mut groups: Vec<Group<'_>> = Vec::new();
        for (lsn, is_soft, tag) in bumps {
            let group = match groups.last_mut() {
                Some(last) if last.lsn == lsn => last,
                _ => groups.push_mut(Group { lsn, ..Group::default() }),
            };
            if is_soft { group.soft.push(tag) } else { group.hard.push(tag) }
        }
        groups
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.hard.clear();
        self.soft.clear();
        self.end = None;
        self.commits = 0;
    }
}

fn bump(tags: &mut HashMap<Box<str>, Lsn>, tag: &str, end: Lsn) {
    match tags.get_mut(tag) {
        Some(lsn) => *lsn = end,
        None => {
            tags.insert(tag.into(), end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_stands_once_at_its_last_version() {
        let mut batch = Batch::default();
        batch.push(Lsn(10), ["a", "b"], []);
        batch.push(Lsn(20), ["b"], ["a"]);
        assert_eq!((batch.end(), batch.commits(), batch.tags()), (Some(Lsn(20)), 2, 3));
        assert_eq!(
            batch.groups(),
            [
                Group { lsn: Lsn(10), hard: vec!["a"], soft: vec![] },
                Group { lsn: Lsn(20), hard: vec!["b"], soft: vec!["a"] },
            ]
        );
    }

    #[test]
    fn a_later_hard_bump_swallows_the_soft_one() {
        let mut batch = Batch::default();
        batch.push(Lsn(10), [], ["a"]);
        batch.push(Lsn(20), ["a"], []);
        assert_eq!(batch.groups(), [Group { lsn: Lsn(20), hard: vec!["a"], soft: vec![] }]);
    }

    #[test]
    fn a_commit_without_tags_still_moves_the_end() {
        let mut batch = Batch::default();
        batch.push(Lsn(10), [], []);
        assert_eq!((batch.end(), batch.groups().len()), (Some(Lsn(10)), 0));
        batch.clear();
        assert_eq!((batch.end(), batch.commits()), (None, 0));
    }
}
