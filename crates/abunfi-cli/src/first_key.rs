//! The key that the embedded default makes for itself when nobody has one.
//!
//! The file comes first and the stored key second. A crash in between leaves a file whose key is not
//! stored yet; the next start takes that file up again. The other order could leave a stored key that
//! nobody has ever seen.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use abunfi::DatabaseService;
use abunfi::context::Context;
use abunfi::ids::random_bytes;
use abunfi::keys::Scope;
use abunfi::token::{Token, TokenKind};
use anyhow::Context as _;

use crate::failure::Misuse;

/// In the data directory.
pub(crate) const FILE_NAME: &str = "admin.key";
/// Whose key it is.
const OWNER: &str = "admin";

/// How callers prove who they are.
#[derive(Debug)]
pub(crate) enum Access {
    /// `ABUNFI_ADMIN_KEY`.
    Configured,
    /// There are stored keys; the file of the first one, if it is still there.
    Stored { file: Option<PathBuf> },
    /// All stored keys are revoked.
    NoneLeft,
    /// Made now, and written to the file.
    Made { file: PathBuf, token: Token },
}

/// Sees to it that there is a key, as the contract says: the embedded default makes its first one, a
/// platform on a server of its own does not start without one.
pub(crate) async fn ensure(platform: &DatabaseService) -> anyhow::Result<Access> {
    let config = platform.config();
    if config.admin_key.is_some() {
        return Ok(Access::Configured);
    }
    let keys = platform.keys().list().await?;
    let file = config.data_dir.join(FILE_NAME);
    if keys.iter().any(|key| key.revoked_at.is_none()) {
        let file = Some(file).filter(|file| !config.uses_postgres() && file.exists());
        return Ok(Access::Stored { file });
    }
    if config.uses_postgres() {
        return Err(Misuse(NO_KEY.to_owned()).into());
    }
    if !keys.is_empty() {
        return Ok(Access::NoneLeft);
    }
    let token = write_first(&file)
        .with_context(|| format!("the first key cannot be written to {}", file.display()))?;
    platform
        .keys()
        .adopt(&Context::system("first_start"), OWNER, Scope::ALL, &token)
        .await?;
    Ok(Access::Made { file, token })
}

const NO_KEY: &str = "nobody could call this service: DATABASE_URL names a server, and there is no service key.\n  \
     Make one with the same settings:  abunfi keys create admin\n  \
     or set ABUNFI_ADMIN_KEY to at least 32 random characters.";

/// The token in `path`, which is made with a new one unless it is there already. Whole or not at all, and
/// readable by its owner alone from the first byte on.
fn write_first(path: &Path) -> anyhow::Result<Token> {
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let token = Token::from_random(TokenKind::ServiceKey, random_bytes());
    let mut draft = tempfile::Builder::new()
        .prefix(".admin.key.")
        .permissions(fs::Permissions::from_mode(0o600))
        .tempfile_in(directory)?;
    writeln!(draft, "{}", token.expose())?;
    draft.as_file().sync_all()?;
    // A link, not a rename: it fails if another start was first, and that one's key is the key.
    match draft.persist_noclobber(path) {
        Ok(_file) => {
            File::open(directory)?.sync_all()?;
            Ok(token)
        }
        Err(error) if error.error.kind() == ErrorKind::AlreadyExists => read_first(path),
        Err(error) => Err(error.error.into()),
    }
}

/// The token of a start that did not get as far as storing it.
fn read_first(path: &Path) -> anyhow::Result<Token> {
    let file = File::open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    let text = std::io::read_to_string(file)?;
    Token::parse(text.trim())
        .filter(|token| token.kind() == TokenKind::ServiceKey)
        .context("the file is there and holds no key; remove it, and start again")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_file_holds_the_key_and_is_the_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new").join(FILE_NAME);
        let token = write_first(&path).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            format!("{}\n", token.expose())
        );
        assert_eq!(mode(&path), 0o600);
        assert_eq!(
            fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "no draft is left"
        );
    }

    #[test]
    fn a_start_that_was_killed_before_it_stored_the_key_is_taken_up_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        let first = write_first(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(write_first(&path).unwrap(), first);
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn a_file_that_holds_something_else_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        fs::write(&path, "abs_something else").unwrap();
        let error = write_first(&path).unwrap_err().to_string();
        assert!(
            error.contains("remove it") && !error.contains("something else"),
            "{error}"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "abs_something else");
    }
}
