//! A flame graph of a process: `perf` takes the samples, `inferno` folds and draws them.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use abunfi_testkit::programs;
use anyhow::{Context, Result, ensure};
use inferno::collapse::Collapse as _;
use inferno::collapse::perf::{Folder, Options as Folding};
use inferno::flamegraph;

/// How long perf may take until it watches.
pub(super) const LEAD: Duration = Duration::from_millis(500);

/// Where perf is.
pub(super) fn perf() -> Result<PathBuf> {
    ensure!(cfg!(target_os = "linux"), "perf is for Linux only");
    programs::on_path("perf").context("no `perf` on the PATH (Debian: the package linux-perf)")
}

/// Samples that are being taken.
pub(super) struct Samples {
    perf: PathBuf,
    recording: Child,
    data: PathBuf,
}

/// Begins to take samples of a process, for `span`.
pub(super) fn record(perf: &Path, pid: u32, span: Duration, data: &Path) -> Result<Samples> {
    let seconds = format!("{}.{:03}", span.as_secs(), span.subsec_millis());
    let recording = Command::new(perf)
        // A prime, so that what happens in step with a clock is not always or never seen.
        .args(["record", "-F", "499", "-g"])
        // Programs in Rust have no frame pointers: copies of the stack are unwound later.
        .args(["--call-graph", "dwarf,8192"])
        .args(["-p", &pid.to_string()])
        .arg("-o")
        .arg(data)
        .args(["--", "sleep", &seconds])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", perf.display()))?;
    Ok(Samples {
        perf: perf.to_owned(),
        recording,
        data: data.to_owned(),
    })
}

impl Samples {
    /// Waits until they are taken, and draws them into `svg`. Blocks.
    pub(super) fn draw(self, title: &str, svg: &Path) -> Result<()> {
        let recorded = self.recording.wait_with_output()?;
        ensure!(
            recorded.status.success(),
            "perf record: {}",
            String::from_utf8_lossy(&recorded.stderr).trim()
        );
        let mut script = Command::new(&self.perf)
            // Functions that were inlined would each be asked for, one process after the other.
            .args(["script", "--no-inline", "-i"])
            .arg(&self.data)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let samples = script.stdout.take().context("no output")?;
        let drawn = draw(samples, title, svg);
        let done = script.wait()?;
        ensure!(done.success(), "perf script failed: {done}");
        drawn
    }
}

/// Draws what `perf script` says.
fn draw(samples: impl Read, title: &str, svg: &Path) -> Result<()> {
    let mut folded = Vec::new();
    Folder::from(Folding::default()).collapse(BufReader::new(samples), &mut folded)?;
    let mut options = flamegraph::Options::default();
    title.clone_into(&mut options.title);
    let mut file = BufWriter::new(File::create(svg)?);
    flamegraph::from_reader(&mut options, folded.as_slice(), &mut file)?;
    file.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_become_a_graph_that_names_their_functions() {
        let samples = "\
abunfi 17585 25068.655219:    2004008 cpu-clock:ppp: 
\t           16714b abunfi::ledger::decide+0x2b (/usr/bin/abunfi)
\t            7f3b4 main+0xd4 (/usr/bin/abunfi)

";
        let folder = tempfile::tempdir().expect("a folder");
        let svg = folder.path().join("graph.svg");

        draw(samples.as_bytes(), "a title", &svg).expect("it is drawn");

        let text = std::fs::read_to_string(&svg).expect("it is there");
        assert!(text.contains("abunfi::ledger::decide"), "{text}");
        assert!(text.contains("a title"));
    }
}
