//! The mapping under any sequence of changes: whatever is not known is bumped wider, never not at all, and limits only widen.

use std::collections::HashMap;

use cachetag_core::{Rendered, Tag, Template};
use cachetag_invalidator::mapping::{
    Column, Limits, Mapper, MappingError, Metadata, MetadataTable, OldRow, Outcome, Relation, ReplicaIdentity,
    TransactionBumps, Value,
};

use super::input::Input;

const PRODUCTS: u32 = 100;
const TEMPLATES: [&str; 3] = ["product:{id}", "category:{category}", "pair:{category}-{id}"];
const COLUMNS: [&str; 3] = ["id", "category", "body"];
const CATALOG: [(MetadataTable, u32, &[&str]); 3] = [
    (
        MetadataTable::Rule,
        1,
        &["id", "relation", "template", "columns_that_matter", "operations", "soft", "predicate", "state"],
    ),
    (MetadataTable::Binding, 2, &["id", "rule_id", "relation"]),
    (MetadataTable::Dependency, 3, &["id", "parent", "child", "soft", "max_depth", "operations"]),
];

/// Values that tell, as literals: fuzzers find them by trial.
const TEXTS: [&[u8]; 8] = [b"1", b"2", b"a b", b"", b"%", b"\xff", b"{insert}", &[b'x'; 600]];

type Cells<'a> = Vec<Value<'a>>;

/// The mappings that see the same stream, and what they must bump.
struct World {
    /// With room for everything, and with hardly any.
    wide: Mapper,
    narrow: Mapper,
    identity: ReplicaIdentity,
    templates: Vec<Template>,
    /// The tags that the open whole transaction must bump, and those of each streamed one by subtransaction.
    owed: Vec<Tag>,
    streamed: HashMap<u32, Vec<(u32, Tag)>>,
    block: Option<u32>,
    subxid: u32,
    /// The catalog has changed: what the rules are now is not followed here.
    is_changed: bool,
}

/// Operations, a byte each, with their arguments.
pub(super) fn mapping(data: &[u8]) {
    let mut input = Input::new(data);
    let identity = [ReplicaIdentity::Key, ReplicaIdentity::Full, ReplicaIdentity::Nothing][usize::from(input.below(3))];
    let limit = usize::from(input.below(24)) + 1;
    let mut world = World::new(identity, limit);
    // An error ends the session, whichever of the two had it.
    while !input.is_empty() && world.step(&mut input).is_ok() {}
}

fn metadata() -> Metadata {
    let mut metadata = Metadata::default();
    let mut add = |at: usize, row: &[&str]| {
        let (table, _, columns) = CATALOG[at];
        let find = |name: &str| columns.iter().position(|column| *column == name).and_then(|at| row.get(at).copied());
        metadata.add(table, |name| find(name).filter(|text| *text != "~")).expect("a row of the catalog");
    };
    for (at, template) in TEMPLATES.iter().enumerate() {
        let id = (at + 1).to_string();
        add(0, &[&id, "100", template, "~", "{insert,update,delete,truncate}", "f", "~", "ok"]);
        add(1, &[&id, &id, "100"]);
    }
    add(2, &["1", "product:1", "homepage", "f", "16", "~"]);
    add(2, &["2", "category:*", "menu", "f", "16", "~"]);
    metadata
}

fn relation(oid: u32, names: (&str, &str), columns: &[&str], identity: ReplicaIdentity) -> Relation {
    let is_key = |at| at == 0 || identity == ReplicaIdentity::Full;
    let column = |(at, name): (usize, &&str)| Column { name: (*name).into(), type_oid: 25, is_key: is_key(at) };
    Relation {
        oid,
        namespace: names.0.into(),
        name: names.1.into(),
        identity,
        columns: columns.iter().enumerate().map(column).collect(),
    }
}

fn cells<'a>(input: &mut Input<'a>, columns: usize) -> Cells<'a> {
    (0..columns)
        .map(|_| match input.below(16) {
            0 => Value::Null,
            1 => Value::Unchanged,
            2 => Value::Unknown,
            3 => Value::Text(input.bytes()),
            n => Value::Text(TEXTS[usize::from(n) % TEXTS.len()]),
        })
        .collect()
}

impl World {
    fn new(identity: ReplicaIdentity, limit: usize) -> World {
        let narrow = Limits { tags: limit, edges: limit, streamed_tags: limit * 2, streamed_metadata: limit };
        let mut world = World {
            wide: Mapper::load(metadata(), Limits::default()),
            narrow: Mapper::load(metadata(), narrow),
            identity,
            templates: TEMPLATES.iter().map(|text| Template::parse(text).expect("a template")).collect(),
            owed: Vec::new(),
            streamed: HashMap::new(),
            block: None,
            subxid: 0,
            is_changed: false,
        };
        world.both(|mapper| {
            mapper.relation(relation(PRODUCTS, ("public", "products"), &COLUMNS, identity));
            for ((_, oid, columns), name) in CATALOG.iter().zip(["rule", "binding", "dependency"]) {
                mapper.relation(relation(*oid, ("cachetag", name), columns, ReplicaIdentity::Full));
            }
            mapper.begin();
        });
        world
    }

    /// Both mappings do the same; where one gives up the session ends.
    fn both<T>(&mut self, act: impl Fn(&mut Mapper) -> T) -> (T, T) {
        (act(&mut self.wide), act(&mut self.narrow))
    }

    fn try_both<T>(&mut self, act: impl Fn(&mut Mapper) -> Result<T, MappingError>) -> Result<(T, T), MappingError> {
        let (wide, narrow) = self.both(act);
        Ok((wide?, narrow?))
    }

    /// A change of the table: it has rules for as long as nobody has changed them.
    fn change(&mut self, act: impl Fn(&mut Mapper) -> Result<Outcome, MappingError>) -> Result<(), MappingError> {
        let outcomes = self.try_both(act)?;
        assert!(self.is_changed || outcomes == (Outcome::Mapped, Outcome::Mapped), "{outcomes:?}");
        Ok(())
    }

    fn owe(&mut self, tag: Tag) {
        match self.block {
            Some(xid) => self.streamed.entry(xid).or_default().push((self.subxid, tag)),
            None => self.owed.push(tag),
        }
    }

    /// A row, of which `None` is a cell that nobody knows, has been there: its tags are owed.
    fn owe_row(&mut self, row: &[Option<Value<'_>>]) {
        for template in self.templates.clone() {
            let cell = |name: &str| row[COLUMNS.iter().position(|column| *column == name).expect("a column")];
            let values: Vec<Option<Value<'_>>> = template.columns().map(cell).collect();
            if values.iter().any(|value| matches!(value, Some(Value::Null))) {
                continue;
            }
            if !values.iter().all(|value| matches!(value, Some(Value::Text(_)))) {
                self.owe(template.whole_family());
                continue;
            }
            let rendered = template.render(|name| match cell(name) {
                Some(Value::Text(text)) => Some(text),
                _ => None,
            });
            match rendered {
                Rendered::Tag(tag) => self.owe(tag),
                Rendered::Null => {}
                Rendered::TooLong | Rendered::Unrenderable => self.owe(template.whole_family()),
            }
        }
    }

    /// What is owed has been bumped, and the narrow mapping has bumped all that the wide one has.
    fn settle(&mut self, owed: Vec<Tag>, (wide, narrow): (TransactionBumps, TransactionBumps)) {
        let covers = |bumps: &[Tag], tag: &Tag| {
            // A bump of a whole family is not made by one of its members.
            bumps.iter().any(|bump| bump == tag || bump.is_everything() || *bump == tag.whole_family())
        };
        if !self.is_changed {
            for tag in owed {
                assert!(covers(&wide.hard, &tag), "{tag} is not bumped by {wide:?}");
                if tag.as_str() == "product:1" {
                    assert!(covers(&wide.hard, &Tag::parse("homepage").expect("a tag")), "{wide:?}");
                }
                if tag.family() == "category" {
                    assert!(covers(&wide.hard, &Tag::parse("menu").expect("a tag")), "{wide:?}");
                }
            }
        }
        for tag in &wide.hard {
            assert!(covers(&narrow.hard, tag), "{tag} is hard in {wide:?} and not in {narrow:?}");
        }
        for tag in &wide.soft {
            assert!(
                covers(&narrow.hard, tag) || covers(&narrow.soft, tag),
                "{tag} is in {wide:?} and not in {narrow:?}"
            );
        }
    }

    fn step(&mut self, input: &mut Input<'_>) -> Result<(), MappingError> {
        match input.below(12) {
            0 | 1 => {
                let new = cells(input, COLUMNS.len());
                self.owe_row(&known(&new));
                self.change(|mapper| mapper.insert(PRODUCTS, &*new))?;
            }
            2 | 3 => self.update(input)?,
            4 => {
                let row = cells(input, COLUMNS.len());
                let old = self.old(&row);
                if !matches!(old, OldRow::Absent) {
                    self.owe_row(&self.before(&row));
                } else {
                    self.owe_row(&[None; 3]);
                }
                self.change(|mapper| mapper.delete(PRODUCTS, old))?;
            }
            5 => {
                for template in self.templates.clone() {
                    self.owe(template.whole_family());
                }
                self.change(|mapper| mapper.truncate(PRODUCTS))?;
            }
            6 => {
                let content = input.bytes();
                if let Ok(message) = cachetag_core::InvalidationMessage::parse(content) {
                    message.tags.into_iter().filter(|_| !message.soft).for_each(|tag| self.owe(tag));
                } else {
                    self.owe(Tag::everything());
                }
                self.both(|mapper| drop(mapper.message(content)));
            }
            7 => self.commit(),
            8 => self.block(input)?,
            9 => {
                self.both(Mapper::end_block);
                self.block = None;
                let (xid, subxid) = (u32::from(input.below(4)) + 10, u32::from(input.below(6)) + 10);
                if input.below(2) == 0 {
                    self.both(|mapper| mapper.abort_streamed(xid, subxid));
                    match self.streamed.get_mut(&xid) {
                        Some(_) if xid == subxid => drop(self.streamed.remove(&xid)),
                        Some(owed) => owed.retain(|(of, _)| *of != subxid),
                        None => {}
                    }
                } else {
                    // It begins by forgetting the whole transaction that is open: the server never mixes them.
                    self.owed.clear();
                    let bumps = self.try_both(|mapper| mapper.commit_streamed(xid))?;
                    let owed = self.streamed.remove(&xid).unwrap_or_default();
                    self.settle(owed.into_iter().map(|(_, tag)| tag).collect(), bumps);
                }
            }
            10 => {
                let (_, oid, columns) = CATALOG[usize::from(input.below(3))];
                let row = cells(input, columns.len());
                self.is_changed = true;
                match input.below(4) {
                    0 => self.try_both(|mapper| mapper.truncate(oid).map(drop))?,
                    1 => self.try_both(|mapper| mapper.delete(oid, OldRow::Full(&*row)).map(drop))?,
                    _ => self.try_both(|mapper| mapper.insert(oid, &*row).map(drop))?,
                };
            }
            _ => {
                let reload = self.both(Mapper::discard);
                assert_eq!(reload.0, reload.1);
                self.owed.clear();
                self.streamed.clear();
                self.block = None;
            }
        }
        Ok(())
    }

    fn update(&mut self, input: &mut Input<'_>) -> Result<(), MappingError> {
        let (old_cells, new) = (cells(input, COLUMNS.len()), cells(input, COLUMNS.len()));
        let is_absent = input.below(4) == 0;
        let old = if is_absent { OldRow::Absent } else { self.old(&old_cells) };
        // Under a key identity no old row means that the key has not changed.
        let key_stays = matches!(old, OldRow::Absent) && self.identity == ReplicaIdentity::Key;
        let before = match old {
            OldRow::Absent if key_stays => vec![known(&new)[0], None, None],
            OldRow::Absent => vec![None; 3],
            _ => self.before(&old_cells),
        };
        // A value that the update left alone is the old one.
        let after: Vec<Option<Value<'_>>> = known(&new)
            .into_iter()
            .zip(&new)
            .zip(&before)
            .map(|((new, raw), old)| if matches!(raw, Value::Unchanged) { *old } else { new })
            .collect();
        self.owe_row(&after);
        self.owe_row(&before);
        self.change(|mapper| mapper.update(PRODUCTS, old, &*new))
    }

    /// The old row as this replica identity brings it.
    fn old<'r, 'a>(&self, row: &'r Cells<'a>) -> OldRow<'r, [Value<'a>]> {
        match self.identity {
            ReplicaIdentity::Key => OldRow::Key(row),
            ReplicaIdentity::Full => OldRow::Full(row),
            ReplicaIdentity::Nothing => OldRow::Absent,
        }
    }

    /// What the old row tells: under a key identity, the key.
    fn before<'a>(&self, row: &Cells<'a>) -> Vec<Option<Value<'a>>> {
        let known = known(row);
        if self.identity == ReplicaIdentity::Key { vec![known[0], None, None] } else { known }
    }

    fn commit(&mut self) {
        if self.block.is_none() {
            let bumps = self.both(Mapper::commit);
            let owed = std::mem::take(&mut self.owed);
            self.settle(owed, bumps);
            self.both(Mapper::begin);
        }
    }

    /// A block begins or goes on, or the next change is of another subtransaction.
    fn block(&mut self, input: &mut Input<'_>) -> Result<(), MappingError> {
        let number = u32::from(input.below(4)) + 10;
        if let Some(xid) = self.block {
            self.subxid = xid + number - 10;
            let subxid = self.subxid;
            self.both(|mapper| mapper.within(subxid));
            return Ok(());
        }
        let is_first = !self.streamed.contains_key(&number);
        self.streamed.entry(number).or_default();
        (self.block, self.subxid) = (Some(number), number);
        self.try_both(|mapper| mapper.begin_block(number, is_first))?;
        self.both(|mapper| mapper.within(number));
        Ok(())
    }
}

fn known<'a>(row: &Cells<'a>) -> Vec<Option<Value<'a>>> {
    let is_known = |value: &Value<'_>| matches!(value, Value::Null | Value::Text(_));
    row.iter().map(|value| Some(*value).filter(is_known)).collect()
}
