//! Processor time as Linux accounts it: of a process with all its threads, and of one with its children.

use std::fs;

/// Of a processor, in the kernel's ticks, of which every Linux has 100 a second towards programs (`USER_HZ`).
/// Exact to one tick for each process: a tenth of a percent or so of what a span of seconds takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Cpu(u64);

const MICROS_OF_A_TICK: u64 = 10_000;

impl Cpu {
    pub(super) const fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }

    /// Microseconds for each of `count`, with one decimal.
    pub(super) fn for_each_of(self, count: u64) -> String {
        let tenths = self.0 * MICROS_OF_A_TICK * 10 / count.max(1);
        format!("{}.{}", tenths / 10, tenths % 10)
    }
}

/// What `/proc/PID/stat` says.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    /// Of all its threads, those that ended too.
    own: u64,
    /// Of its children that have ended, and theirs.
    ended: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        // The second field is the program's name in parentheses, and may have any character in it.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // The manual counts from 1, and the state, first here, is its third.
        let ticks = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            own: ticks(14)? + ticks(15)?,
            ended: ticks(16)? + ticks(17)?,
        })
    }
}

/// Of a process with all its threads; `None` where the system does not say.
pub(super) fn of_process(pid: u32) -> Option<Cpu> {
    Stat::read(pid).map(|stat| Cpu(stat.own))
}

/// Of a process and its children. What a child took that ends in between moves to its parent's account,
/// so that nothing is lost.
pub(super) fn of_tree(root: u32) -> Option<Cpu> {
    let processes = fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, Stat::read(pid)?)));
    of(root, processes)
}

fn of(root: u32, processes: impl Iterator<Item = (u32, Stat)>) -> Option<Cpu> {
    let mut found = false;
    let mut all = 0;
    for (pid, stat) in processes {
        found |= pid == root;
        if pid == root || stat.parent == root {
            all += stat.own + stat.ended;
        }
    }
    found.then_some(Cpu(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str =
        "4711 (post) gres (x) S 42 4711 4711 0 -1 4194304 1 2 3 4 150 50 7 3 20 0 1 0 9 8 7";

    #[test]
    fn times_are_read_behind_a_name_with_parentheses() {
        let stat = Stat::parse(STAT);

        assert_eq!(
            stat,
            Some(Stat {
                parent: 42,
                own: 200,
                ended: 10
            })
        );
        assert_eq!(Stat::parse("4711 (x) S 42"), None);
    }

    #[test]
    fn a_child_that_ended_counts_as_before() {
        let stat = |parent, own, ended| Stat { parent, own, ended };
        let before = [
            (1, stat(0, 500, 9)),
            (42, stat(1, 10, 0)),
            (43, stat(42, 30, 0)),
        ];
        let after = [
            (1, stat(0, 900, 9)),
            (42, stat(1, 11, 35)),
            (44, stat(42, 4, 0)),
        ];

        let before = of(42, before.into_iter()).expect("it was there");
        let after = of(42, after.into_iter()).expect("it is there");

        assert_eq!(after.since(before), Cpu(10));
        assert_eq!(of(42, [(1, stat(0, 1, 1))].into_iter()), None);
    }

    #[test]
    fn microseconds_have_a_decimal() {
        assert_eq!(Cpu(123).for_each_of(10_000), "123.0");
        assert_eq!(Cpu(1).for_each_of(3_000), "3.3");
        assert_eq!(Cpu(1).for_each_of(0), "10000.0");
    }
}
