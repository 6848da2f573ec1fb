//! Anchors: published checkpoints, as `abunfi audit anchor` writes them.

use std::path::Path;

use abunfi::audit::format::Anchor;

use crate::failure::Misuse;

/// Nothing can be held against what is no anchor, which is not the same as a disagreement.
pub(crate) fn read(path: &Path) -> Result<Anchor, Misuse> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Misuse(format!("cannot read {}: {error}", path.display())))?;
    Anchor::parse(&text).map_err(|error| {
        Misuse(format!(
            "{} is no anchor, as `abunfi audit anchor` writes them: {error}",
            path.display()
        ))
    })
}
