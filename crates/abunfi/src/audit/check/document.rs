//! A proof or an anchor: one JSON object, judged while it is read. Of a history, however long it is, one row is
//! held at a time: so the members come in the order of the format, what tells about rows before them.

use std::fmt;
use std::io::Read;

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use uuid::Uuid;

use super::{Demands, Kind, Report, Unreadable, Walk};
use crate::audit::checkpoint::{Checkpoint, Leaf};
use crate::audit::format::{ANCHOR, CheckpointLine, Inclusion, PROOF, RowLine};
use crate::audit::{Hash, Head, Progress, merkle};
use crate::ids::UserId;

pub(super) fn check(
    file: impl Read,
    demands: &Demands,
    progress: &dyn Progress,
) -> Result<Report, Unreadable> {
    let mut document = Document {
        demands,
        progress,
        format: None,
        ledger_id: None,
        user_id: None,
        checkpoint: None,
        proof: None,
    };
    let mut json = serde_json::Deserializer::from_reader(file);
    let read = json
        .deserialize_map(Members(&mut document))
        .and_then(|()| json.end());
    let is_known = matches!(document.format.as_deref(), Some(PROOF | ANCHOR));
    match read {
        Err(error) if error.is_io() => Err(Unreadable::Read(error.into())),
        Err(error) if is_known || error.is_data() && document.format.is_none() => {
            Err(Unreadable::Line {
                line: u64::try_from(error.line()).unwrap_or_default(),
                reason: error.to_string(),
            })
        }
        Ok(()) if is_known => document.finish(),
        _ => Err(Unreadable::Unknown),
    }
}

/// What has been read so far.
struct Document<'d> {
    demands: &'d Demands,
    progress: &'d dyn Progress,
    format: Option<String>,
    ledger_id: Option<Uuid>,
    user_id: Option<UserId>,
    checkpoint: Option<CheckpointLine>,
    /// Of a proof, once its chains have come.
    proof: Option<Report>,
}

impl Document<'_> {
    /// The report, with the checkpoint in it.
    fn begin(&mut self, kind: Kind) -> Option<(Report, Checkpoint)> {
        let (ledger_id, line) = self.ledger_id.zip(self.checkpoint.take())?;
        let mut report = Report::new(kind, ledger_id);
        report.whole_seal(&line);
        let checkpoint = line.into_checkpoint(ledger_id);
        report.checkpoint(&checkpoint, self.demands);
        Some((report, checkpoint))
    }

    fn finish(mut self) -> Result<Report, Unreadable> {
        let report = match self.proof.take() {
            Some(report) => report,
            None if self.format.as_deref() == Some(ANCHOR) => {
                let begun = self.begin(Kind::Anchor);
                begun
                    .ok_or(Unreadable::Cut("an anchor has a ledger and a checkpoint"))?
                    .0
            }
            None => return Err(Unreadable::Cut("a proof has chains")),
        };
        Ok(report.finish(self.demands))
    }
}

/// Takes a member, of which there must be one.
fn once<'de, M: MapAccess<'de>, T: Deserialize<'de>>(
    member: &mut Option<T>,
    name: &'static str,
    map: &mut M,
) -> Result<(), M::Error> {
    if member.is_some() {
        return Err(M::Error::duplicate_field(name));
    }
    *member = Some(map.next_value()?);
    Ok(())
}

struct Members<'m, 'd>(&'m mut Document<'d>);

impl<'de> Visitor<'de> for Members<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a proof or an anchor")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        let document = self.0;
        while let Some(name) = map.next_key::<String>()? {
            let is_proof = document.format.as_deref() == Some(PROOF);
            match name.as_str() {
                // A second one would be another than the rows were held against.
                "checkpoint" if document.proof.is_some() => {
                    return Err(M::Error::duplicate_field("checkpoint"));
                }
                "format" => once(&mut document.format, "format", &mut map)?,
                "ledger_id" => once(&mut document.ledger_id, "ledger_id", &mut map)?,
                "user_id" => once(&mut document.user_id, "user_id", &mut map)?,
                "checkpoint" => once(&mut document.checkpoint, "checkpoint", &mut map)?,
                "chains" if document.proof.is_some() => {
                    return Err(M::Error::duplicate_field("chains"));
                }
                "chains" if is_proof => {
                    let begun = document.begin(Kind::Proof).zip(document.user_id);
                    let ((mut report, checkpoint), user) = begun.ok_or_else(|| {
                        M::Error::custom("`chains` come after `ledger_id`, `user_id`, `checkpoint`")
                    })?;
                    report.user_id = Some(user);
                    let mut proof = Proof {
                        report,
                        user,
                        checkpoint,
                        progress: document.progress,
                    };
                    map.next_value_seed(Chains(&mut proof))?;
                    document.proof = Some(proof.report);
                }
                "chains" if document.format.is_none() => {
                    return Err(M::Error::custom("`chains` come after `format`"));
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// The chains of a proof.
struct Proof<'d> {
    report: Report,
    user: UserId,
    checkpoint: Checkpoint,
    progress: &'d dyn Progress,
}

/// One of them, on the way through its rows.
struct Chain {
    name: String,
    inclusion: Option<Inclusion>,
    walk: Walk,
}

impl Chain {
    /// Up to where the checkpoint covers it.
    fn covered(&self) -> i64 {
        self.inclusion.as_ref().map_or(0, |inclusion| inclusion.seq)
    }
}

impl Proof<'_> {
    fn begin(&mut self, name: String, inclusion: Option<Inclusion>) -> Chain {
        let report = &mut self.report;
        report.chains += 1;
        report.chains_not_covered += u64::from(inclusion.is_none());
        if let Some(inclusion) = &inclusion
            && !is_included(self.user, &name, inclusion, &self.checkpoint)
        {
            report.found(|| format!("chain {name}: it is not in the checkpoint's tree"));
        }
        Chain {
            name,
            inclusion,
            walk: Walk::from(Head::EMPTY),
        }
    }

    fn row(&mut self, chain: &mut Chain, line: RowLine) {
        let report = &mut self.report;
        let name = &chain.name;
        let seq = line.seq;
        let Some(row) = line.into_entry() else {
            report.found(|| format!("chain {name}: row {seq} makes no sense"));
            return;
        };
        report.rows += 1;
        report.rows_not_covered += u64::from(seq > chain.covered());
        if row.user_id != self.user || row.chain != *name {
            report.found(|| format!("chain {name}: row {seq} is of another chain"));
        }
        if let Some(wrong) = chain.walk.step(&row) {
            report.found(|| format!("chain {name}: {wrong}"));
        }
        if let Some(inclusion) = &chain.inclusion
            && inclusion.seq == seq
            && inclusion.hash.0 != row.hash
        {
            let hash = hex::encode(inclusion.hash.0);
            report.found(|| {
                format!("chain {name}: the checkpoint says that row {seq} has hash {hash}")
            });
        }
        self.progress.rows(self.report.rows);
    }

    fn end(&mut self, chain: &Chain) {
        let (name, last, covered) = (&chain.name, chain.walk.head.seq, chain.covered());
        if last < covered {
            self.report.found(|| {
                format!("chain {name}: it ends at row {last}, the checkpoint covers {covered}")
            });
        }
    }
}

struct Chains<'p, 'd>(&'p mut Proof<'d>);

impl<'de> DeserializeSeed<'de> for Chains<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Chains<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("chains")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut chains: S) -> Result<(), S::Error> {
        while chains.next_element_seed(OneChain(self.0))?.is_some() {}
        Ok(())
    }
}

struct OneChain<'p, 'd>(&'p mut Proof<'d>);

impl<'de> DeserializeSeed<'de> for OneChain<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for OneChain<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a chain")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        let (mut name, mut inclusion) = (None, None::<Option<Inclusion>>);
        let mut is_done = false;
        while let Some(member) = map.next_key::<String>()? {
            match member.as_str() {
                "chain" | "inclusion" | "rows" if is_done => {
                    return Err(M::Error::custom("`rows` are the last of a chain"));
                }
                "chain" => once(&mut name, "chain", &mut map)?,
                "inclusion" => once(&mut inclusion, "inclusion", &mut map)?,
                "rows" => {
                    let before = name.take().zip(inclusion.take());
                    let (name, inclusion) = before.ok_or_else(|| {
                        M::Error::custom("`rows` come after `chain` and `inclusion`")
                    })?;
                    let mut chain = self.0.begin(name, inclusion);
                    map.next_value_seed(Rows(self.0, &mut chain))?;
                    self.0.end(&chain);
                    is_done = true;
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        if is_done {
            Ok(())
        } else {
            Err(M::Error::missing_field("rows"))
        }
    }
}

struct Rows<'p, 'd>(&'p mut Proof<'d>, &'p mut Chain);

impl<'de> DeserializeSeed<'de> for Rows<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Rows<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("rows")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut rows: S) -> Result<(), S::Error> {
        while let Some(row) = rows.next_element()? {
            self.0.row(self.1, row);
        }
        Ok(())
    }
}

fn is_included(user: UserId, chain: &str, inclusion: &Inclusion, checkpoint: &Checkpoint) -> bool {
    let leaf = Leaf {
        leaf: inclusion.leaf,
        user_id: user,
        chain: chain.to_owned(),
    };
    let hash = leaf.hash(Head {
        seq: inclusion.seq,
        hash: inclusion.hash.0,
    });
    let path: Vec<Hash> = inclusion.path.iter().map(|hash| hash.0).collect();
    let (Ok(index), Ok(size)) = (
        u64::try_from(inclusion.leaf),
        u64::try_from(checkpoint.size),
    ) else {
        return false;
    };
    merkle::root_of_path(index, size, hash, &path) == Some(checkpoint.root)
}
