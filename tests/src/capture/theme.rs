//! Worlds about one thing: what chance alone would rarely bring together.

use super::world::Cluster;
use crate::Random;

/// What a world is about, beside everything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Theme {
    /// Conditions with a subquery that no row may need.
    Lazy,
    /// Functions that are replaced.
    Definitions,
    /// A collation under which unequal texts are equal.
    Collations,
    /// Types whose texts depend on settings, under others than the daemon's.
    Settings,
    /// Types of which equal values have unequal texts.
    Texts,
}

const ALL: &[Theme] = &[Theme::Lazy, Theme::Definitions, Theme::Collations, Theme::Settings, Theme::Texts];

/// Of a hundred worlds, those with a theme.
const THEMED: usize = 20;

impl Theme {
    /// That of a world: the one in which capture without this guard goes wrong, else by chance.
    pub fn random(random: &mut Random, guard: Option<&str>) -> Option<Theme> {
        match guard {
            Some("LazyParameters") => Some(Theme::Lazy),
            Some("Definitions") => Some(Theme::Definitions),
            Some("Collations") => Some(Theme::Collations),
            Some("Settings") => Some(Theme::Settings),
            Some("Texts") => Some(Theme::Texts),
            _ => random.percent(THEMED).then(|| *random.pick(ALL)),
        }
    }

    /// Where it mostly is.
    pub fn clusters(self) -> &'static [Cluster] {
        match self {
            Theme::Lazy => &[Cluster::Joins, Cluster::Children],
            Theme::Definitions => &[Cluster::Joins, Cluster::Partitions],
            Theme::Collations | Theme::Settings | Theme::Texts => &[Cluster::Types],
        }
    }

    /// Columns of the table with all types that it is about.
    pub fn types(self) -> &'static [&'static str] {
        match self {
            Theme::Lazy | Theme::Definitions => &[],
            Theme::Collations => &["c_ci", "c_text"],
            Theme::Settings => &["c_timestamptz", "c_timestamp", "c_date", "c_bytea"],
            Theme::Texts => &["c_numeric", "c_exact", "c_char"],
        }
    }
}
