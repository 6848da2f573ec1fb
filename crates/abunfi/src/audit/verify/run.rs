//! Runs it: parts of the books to a few workers, and what they found put together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use uuid::Uuid;

use super::finding::{Finding, Findings, Micros, Place};
use super::large;
use super::page::{AssetSums, Counts, Judged, Page};
use super::store::{Size, Store};
use super::{Options, Progress};
use crate::error::StoreError;

/// Users in one snapshot, for those that have hardly any rows.
const PAGE_USERS: usize = 4_096;
/// Rows of all kinds in a page, for each audit row that it was planned with: beyond it has grown, or has
/// more than its heads say, and is read user by user.
const FULL: u64 = 8;
/// Ranges that one with too much that is new is read in.
const SPLIT: usize = 16;
/// Added to that, so that small pages are not cut for nothing.
const SPARE: u64 = 64;
/// Users whose sizes are read at once.
const SIZES: u32 = 8_192;
/// A snapshot is read again after a failure that may pass, this often.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);

/// What the parts come to.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// By part and then in its order, so that the first are the first of the books, whoever was faster.
    findings: BTreeMap<(u64, usize), Finding>,
    pub(super) count: u64,
    pub(super) counts: Counts,
    pub(super) assets: AssetSums,
}

impl Found {
    pub(super) fn add(&mut self, part: u64, judged: Judged, most: usize) {
        let (findings, count) = judged.findings.into_parts();
        self.count += count;
        self.counts.add(&judged.counts);
        for (asset, sums) in judged.assets {
            let all = self.assets.entry(asset).or_default();
            for (sum, more) in all.iter_mut().zip(sums) {
                *sum += more;
            }
        }
        for (index, finding) in findings.into_iter().enumerate() {
            self.findings.insert((part, index), finding);
        }
        while self.findings.len() > most {
            self.findings.pop_last();
        }
    }

    /// What was found before the first part.
    pub(super) fn begin(&mut self, findings: Findings, most: usize) {
        let judged = Judged {
            findings,
            counts: Counts::default(),
            assets: AssetSums::new(),
        };
        self.add(0, judged, most);
    }

    pub(super) fn into_findings(self) -> Vec<Finding> {
        self.findings.into_values().collect()
    }
}

/// One part of the books.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Users { from: Uuid, through: Uuid },
    Large(Uuid),
}

/// Cuts the books into parts, as they are asked for.
#[derive(Debug)]
struct Plan {
    /// `None`: everybody has been planned.
    next: Option<Uuid>,
    planned: std::collections::VecDeque<Part>,
    number: u64,
    page_rows: u64,
}

impl Plan {
    async fn part(&mut self, store: &dyn Store) -> Result<Option<(u64, Part)>, StoreError> {
        while self.planned.is_empty() {
            let Some(from) = self.next else {
                return Ok(None);
            };
            let (sizes, through) = store.sizes(from, SIZES).await?;
            self.planned.extend(cut(
                from,
                through.unwrap_or(Uuid::max()),
                &sizes,
                self.page_rows,
            ));
            self.next = through.and_then(after);
        }
        self.number += 1;
        Ok(self.planned.pop_front().map(|part| (self.number, part)))
    }
}

/// Parts that cover every id from `from` to `through`, also those without a head.
fn cut(from: Uuid, through: Uuid, sizes: &[Size], page_rows: u64) -> Vec<Part> {
    let mut parts = Vec::new();
    let (mut start, mut rows, mut users) = (Some(from), 0_u64, 0_usize);
    for &(user, size) in sizes {
        let Some(from) = start else {
            break;
        };
        let is_large = size > page_rows;
        if users > 0 && (is_large || rows.saturating_add(size) > page_rows || users >= PAGE_USERS) {
            // Up to the user before, who is the last with rows: ids between them have none or are odd.
            if let Some(before) = before(user).filter(|before| *before >= from) {
                parts.push(Part::Users {
                    from,
                    through: before,
                });
            }
            (start, rows, users) = (Some(user), 0, 0);
        }
        if is_large {
            let from = start.unwrap_or(user);
            if let Some(before) = before(user).filter(|before| *before >= from) {
                parts.push(Part::Users {
                    from,
                    through: before,
                });
            }
            parts.push(Part::Large(user));
            start = after(user);
        } else {
            rows = rows.saturating_add(size);
            users += 1;
        }
    }
    if let Some(from) = start.filter(|start| *start <= through) {
        parts.push(Part::Users { from, through });
    }
    parts
}

/// Ranges that cover every id from `from` to `through`, each with about the same number of these users, who are
/// in the order of their ids; at most [`SPLIT`]. A single one: it cannot be split.
fn split(from: Uuid, through: Uuid, users: &[Uuid]) -> Vec<(Uuid, Uuid)> {
    let end = users.partition_point(|user| *user <= through);
    let users = users.get(..end).unwrap_or(users);
    let mut ranges = Vec::new();
    let mut start = from;
    for first in users
        .chunks(users.len().div_ceil(SPLIT).max(1))
        .skip(1)
        .filter_map(|chunk| chunk.first())
    {
        if let Some(last) = before(*first).filter(|last| *last >= start) {
            ranges.push((start, last));
        }
        start = *first;
    }
    ranges.push((start, through));
    ranges
}

fn before(user: Uuid) -> Option<Uuid> {
    user.as_u128().checked_sub(1).map(Uuid::from_u128)
}

fn after(user: Uuid) -> Option<Uuid> {
    user.as_u128().checked_add(1).map(Uuid::from_u128)
}

/// What the workers share.
struct Run {
    store: Arc<dyn Store>,
    most: usize,
    page_rows: u32,
    since: Option<i64>,
    plan: Mutex<Plan>,
    found: std::sync::Mutex<Found>,
    done: AtomicU64,
    total: u64,
    progress: Arc<dyn Progress>,
}

impl Run {
    fn read(&self, rows: u64) {
        let done = self
            .done
            .fetch_add(rows, Ordering::Relaxed)
            .saturating_add(rows);
        self.progress.rows(done, self.total.max(done));
    }

    async fn work(&self) -> Result<(), StoreError> {
        loop {
            let next = self.plan.lock().await.part(self.store.as_ref()).await?;
            let Some((number, part)) = next else {
                return Ok(());
            };
            let judged = self.judge(part).await?;
            self.found
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .add(number, judged, self.most);
        }
    }

    async fn judge(&self, part: Part) -> Result<Judged, StoreError> {
        match part {
            Part::Large(user) => self.large(user).await,
            Part::Users { from, through } => match self.users(from, through).await? {
                Some(judged) => {
                    self.read(judged.counts.audit_rows);
                    Ok(judged)
                }
                None if self.since.is_some() => self.in_smaller_parts(from, through).await,
                None => self.one_by_one(from, through).await,
            },
        }
    }

    /// `None`: they are too many for one snapshot.
    async fn users(&self, from: Uuid, through: Uuid) -> Result<Option<Judged>, StoreError> {
        let mut attempt = 1;
        loop {
            let page = Page::new(self.most, u64::from(self.page_rows) * FULL + SPARE);
            let (page, read) = match self.since {
                None => {
                    let mut page = page;
                    let read = self.store.users(from, through, &mut page).await;
                    (page, read)
                }
                Some(since) => {
                    let mut page = page.of_what_is_new();
                    let read = self
                        .store
                        .users_since(from, through, since, &mut page)
                        .await;
                    (page, read)
                }
            };
            match read {
                Ok(()) if super::rows::Sink::is_full(&page) => return Ok(None),
                Ok(()) => return Ok(Some(page.close())),
                Err(error) => again(error, &mut attempt).await?,
            }
        }
    }

    /// Of a range with more that is new than a page holds. Only a single user of whom that can be said is read
    /// whole.
    async fn in_smaller_parts(&self, from: Uuid, through: Uuid) -> Result<Judged, StoreError> {
        let mut all = Parts::of(self.most);
        let mut ranges = vec![(from, through)];
        while let Some((from, through)) = ranges.pop() {
            let judged = match self.users(from, through).await? {
                Some(judged) => {
                    self.read(judged.counts.audit_rows);
                    judged
                }
                None => {
                    let (sizes, _) = self.store.sizes(from, SIZES).await?;
                    let users: Vec<Uuid> = sizes.into_iter().map(|(user, _)| user).collect();
                    let smaller = split(from, through, &users);
                    if smaller.len() > 1 {
                        ranges.extend(smaller.into_iter().rev());
                        continue;
                    }
                    self.one_by_one(from, through).await?
                }
            };
            all.add(judged);
        }
        Ok(all.into_judged())
    }

    async fn large(&self, user: Uuid) -> Result<Judged, StoreError> {
        let mut attempt = 1;
        loop {
            let read = |rows| self.read(rows);
            let how = large::How {
                most_findings: self.most,
                part_rows: self.page_rows.div_ceil(2),
            };
            match large::judge(self.store.as_ref(), user, how, &read).await {
                Ok(judged) => return Ok(judged),
                Err(error) => again(error, &mut attempt).await?,
            }
        }
    }

    /// Reads every user of a page on its own: who has grown, or has more rows than its heads say, in parts.
    async fn one_by_one(&self, from: Uuid, through: Uuid) -> Result<Judged, StoreError> {
        let (mut all, mut next) = (Parts::of(self.most), Some(from));
        while let Some(start) = next.filter(|next| *next <= through) {
            let Some(user) = self.store.next_user(start).await? else {
                break;
            };
            if user > through {
                break;
            }
            all.add(self.large(user).await?);
            next = after(user);
        }
        Ok(all.into_judged())
    }
}

/// What the parts of a part come to, one after the other.
struct Parts {
    all: Found,
    findings: Findings,
}

impl Parts {
    fn of(most: usize) -> Self {
        Self {
            all: Found::default(),
            findings: Findings::keeping(most),
        }
    }

    fn add(&mut self, judged: Judged) {
        let counted = Judged {
            findings: Findings::keeping(0),
            ..judged
        };
        self.all.add(1, counted, 0);
        self.findings.append(judged.findings);
    }

    fn into_judged(self) -> Judged {
        Judged {
            findings: self.findings,
            counts: self.all.counts,
            assets: self.all.assets,
        }
    }
}

/// Waits before the next attempt, unless it was the last or waiting does not help.
pub(super) async fn again(error: StoreError, attempt: &mut u32) -> Result<(), StoreError> {
    let may_pass = error.is_away()
        || matches!(
            error,
            StoreError::Overloaded { .. } | StoreError::Conflict { .. }
        );
    if !may_pass || *attempt >= ATTEMPTS {
        return Err(error);
    }
    tracing::debug!(%error, attempt, "reading a part of the books again");
    tokio::time::sleep(PAUSE.saturating_mul(*attempt)).await;
    *attempt += 1;
    Ok(())
}

/// Judges all of the books, and adds it to `found`.
///
/// # Errors
/// When the store fails: nothing is known of what was not read.
pub(super) async fn all(
    store: &Arc<dyn Store>,
    options: &Options,
    progress: &Arc<dyn Progress>,
    found: &mut Found,
) -> Result<(), StoreError> {
    let extent = store.extent().await?;
    let run = Arc::new(Run {
        store: Arc::clone(store),
        most: options.most_findings,
        page_rows: options.page_rows,
        since: options.since,
        plan: Mutex::new(Plan {
            next: Some(Uuid::nil()),
            planned: std::collections::VecDeque::new(),
            number: 0,
            // Of a long history, hardly anything is new.
            page_rows: match options.since {
                Some(_) => u64::MAX,
                None => options.page_rows.into(),
            },
        }),
        found: std::sync::Mutex::new(std::mem::take(found)),
        done: AtomicU64::new(0),
        total: extent.rows,
        progress: Arc::clone(progress),
    });
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..options.workers.max(1) {
        let run = Arc::clone(&run);
        workers.spawn(async move { run.work().await });
    }
    // The first failure ends all of them: dropping the set stops the others.
    while let Some(ended) = workers.join_next().await {
        ended.map_err(|panic| {
            StoreError::unexpected(crate::error::StoreKind::Relational, panic)
        })??;
    }
    *found = std::mem::take(
        &mut *run
            .found
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner),
    );
    zero_sums(found, options.most_findings);
    Ok(())
}

/// Per asset, what users have and the system accounts come to zero.
fn zero_sums(found: &mut Found, most: usize) {
    let mut findings = Findings::keeping(most);
    for (asset, sums) in &found.assets {
        let net = sums.iter().sum();
        let place = || Place::Asset {
            asset: asset.clone(),
        };
        findings.compare(place, "net", Micros(0), Micros(net));
    }
    let judged = Judged {
        findings,
        counts: Counts::default(),
        assets: AssetSums::new(),
    };
    found.add(u64::MAX, judged, most);
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE_ROWS: u64 = 8_192;

    fn id(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    /// Every id is in exactly one part.
    fn assert_covers(parts: &[Part], from: Uuid, through: Uuid) {
        let mut next = Some(from);
        for part in parts {
            let (first, last) = match part {
                Part::Users { from, through } => (*from, *through),
                Part::Large(user) => (*user, *user),
            };
            assert_eq!(next, Some(first), "{parts:?}");
            assert!(first <= last, "{parts:?}");
            next = after(last);
        }
        assert_eq!(next, after(through), "{parts:?}");
    }

    #[test]
    fn parts_cover_every_id_whatever_the_sizes() {
        let cases: &[&[(u128, u64)]] = &[
            &[],
            &[(5, 1)],
            &[
                (0, PAGE_ROWS + 1),
                (1, 1),
                (2, PAGE_ROWS + 1),
                (3, PAGE_ROWS + 1),
            ],
            &[(1, PAGE_ROWS), (9, PAGE_ROWS), (10, 1), (90, PAGE_ROWS * 3)],
            &[(1, 4_000), (2, 4_000), (3, 4_000), (100, PAGE_ROWS + 1)],
        ];
        for case in cases {
            let sizes: Vec<Size> = case.iter().map(|(user, rows)| (id(*user), *rows)).collect();
            let parts = cut(id(0), id(100), &sizes, PAGE_ROWS);
            assert_covers(&parts, id(0), id(100));
            for (user, rows) in sizes {
                let is_large = parts.contains(&Part::Large(user));
                assert_eq!(is_large, rows > PAGE_ROWS, "{parts:?}");
            }
        }
    }

    #[test]
    fn smaller_ranges_cover_every_id_and_come_down_to_single_users() {
        for count in [0_usize, 1, 2, 15, 16, 17, 100, 4_096] {
            let users: Vec<Uuid> = (0_u128..).step_by(3).take(count).map(id).collect();
            let through = id(3 * 4_096);
            let ranges = split(id(0), through, &users);
            let parts: Vec<Part> = ranges
                .iter()
                .map(|&(from, through)| Part::Users { from, through })
                .collect();
            assert_covers(&parts, id(0), through);
            assert_eq!(ranges.len() > 1, count > 1, "{count}");
            assert!(ranges.len() <= SPLIT, "{count}");
            for (from, through) in ranges {
                let inside = |user: &&Uuid| (from..=through).contains(*user);
                let most = count.div_ceil(SPLIT).max(1);
                assert!(users.iter().filter(inside).count() <= most, "{count}");
            }
        }
        // Of those that come after it, a range takes none.
        let users: Vec<Uuid> = (0..9).map(id).collect();
        assert_eq!(split(id(2), id(2), &users[2..]), [(id(2), id(2))]);
        assert_eq!(
            split(id(2), id(3), &users[2..]),
            [(id(2), id(2)), (id(3), id(3))]
        );
    }

    #[test]
    fn the_first_findings_are_those_of_the_first_parts() {
        let mut found = Found::default();
        for part in [3, 1, 2] {
            let mut findings = Findings::keeping(2);
            for number in 0..2_u8 {
                let asset = format!("{part}-{number}");
                findings.add(|| Place::Asset { asset }, "net", 0, 1);
            }
            let judged = Judged {
                findings,
                counts: Counts::default(),
                assets: AssetSums::new(),
            };
            found.add(part, judged, 3);
        }
        assert_eq!(found.count, 6);
        let kept: Vec<String> = found
            .into_findings()
            .iter()
            .map(|finding| finding.place.to_string())
            .collect();
        assert_eq!(kept, ["asset 1-0", "asset 1-1", "asset 2-0"]);
    }
}
