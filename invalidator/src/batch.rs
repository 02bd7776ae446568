//! Commits that wait for the next call to Redis. A batch forms by itself while the previous call is in flight; there is no timer.

use std::collections::HashMap;

use cachetag_core::Lsn;

/// Versions in one call. Few commits keep their own each; of a backlog, runs of commits share that of their last one. Nobody saw the state
/// in between, so no entry falls that would have stayed; a fill is refused until the watermark has passed the run, as it would be by the
/// run's last commit. A version for every commit would cost Redis as much as the tags do.
const MAX_VERSIONS: usize = 64;

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

    /// The bumps by version, ascending, of at most [`MAX_VERSIONS`] versions: each that of its commit or of one behind it, never of one
    /// before. A soft bump that a later hard one overtakes is left out.
    pub fn groups(&self) -> Vec<Group<'_>> {
        let mut bumps: Vec<(Lsn, bool, &str)> = self.hard.iter().map(|(tag, &lsn)| (lsn, false, &**tag)).collect();
        bumps.extend(self.soft.iter().filter_map(|(tag, &lsn)| {
            let overtaken = self.hard.get(tag).is_some_and(|&hard| hard >= lsn);
            (!overtaken).then_some((lsn, true, &**tag))
        }));
        bumps.sort_unstable_by_key(|&(lsn, _, _)| lsn);
        let versions = bumps.chunk_by(|a, b| a.0 == b.0).count();
        let run = versions.div_ceil(MAX_VERSIONS).max(1);
        let mut groups: Vec<Group<'_>> = Vec::with_capacity(versions.min(MAX_VERSIONS));
        for (i, commit) in bumps.chunk_by(|a, b| a.0 == b.0).enumerate() {
            if i % run == 0 {
                groups.push(Group::default());
            }
            let Some(group) = groups.last_mut() else { continue };
            for &(lsn, is_soft, tag) in commit {
                group.lsn = lsn;
                if is_soft { group.soft.push(tag) } else { group.hard.push(tag) }
            }
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
    fn many_commits_share_versions_that_are_not_below_their_own() {
        let mut batch = Batch::default();
        let commits = 10 * MAX_VERSIONS as u64 + 3;
        for n in 1..=commits {
            batch.push(Lsn(n), [n.to_string().as_str()], []);
        }
        let groups = batch.groups();
        assert!(groups.len() <= MAX_VERSIONS && groups.is_sorted_by(|a, b| a.lsn < b.lsn));
        assert_eq!(groups.last().map(|group| group.lsn), batch.end());
        let mut before = Lsn(0);
        let mut tags = 0;
        for group in &groups {
            for tag in &group.hard {
                let own = Lsn(tag.parse().unwrap());
                assert!(own > before && own <= group.lsn);
                tags += 1;
            }
            before = group.lsn;
        }
        assert_eq!(tags, commits);
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
