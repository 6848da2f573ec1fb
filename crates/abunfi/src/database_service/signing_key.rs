//! The key that signs checkpoints: given, in a file, or, in the embedded default, made at the first start.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;

use super::OpenError;
use crate::audit::checkpoint::Signer;
use crate::config::Config;
use crate::ids::random_bytes;

/// In the data directory.
const FILE_NAME: &str = "audit.key";

/// The signer that the configuration names. `None`: a platform on a server of its own, without a key.
pub(super) fn of(config: &Config) -> Result<Option<Signer>, OpenError> {
    if let Some(key) = &config.audit.signing_key {
        let signer = Signer::parse(key.expose());
        return signer
            .ok_or_else(|| refused("AUDIT_SIGNING_KEY", "it is no key"))
            .map(Some);
    }
    if let Some(path) = &config.audit.signing_key_file {
        return read("AUDIT_SIGNING_KEY_FILE", Path::new(path)).map(Some);
    }
    if config.uses_postgres() {
        return Ok(None);
    }
    let path = config.data_dir.join(FILE_NAME);
    if !path.exists() {
        make(&path).map_err(|error| {
            let reason = format!(
                "the key for checkpoints cannot be written to {}: {error}",
                path.display()
            );
            refused("DATA_DIR", &reason)
        })?;
    }
    read("DATA_DIR", &path).map(Some)
}

fn refused(variable: &'static str, reason: &str) -> OpenError {
    OpenError::Configuration {
        variable,
        reason: reason.to_owned(),
    }
}

/// Never says what is in the file.
fn read(variable: &'static str, path: &Path) -> Result<Signer, OpenError> {
    let text = fs::read_to_string(path)
        .map_err(|error| refused(variable, &format!("{}: {error}", path.display())))?;
    Signer::parse(&text).ok_or_else(|| {
        let reason = format!(
            "{} holds no key for checkpoints; `abunfi audit keygen` makes one",
            path.display()
        );
        refused(variable, &reason)
    })
}

/// Whole or not at all, and readable by its owner alone from the first byte on. When another start was first,
/// that one's key is the key.
fn make(path: &Path) -> std::io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let draft = directory.join(format!(".{FILE_NAME}.{}", hex::encode(random_bytes::<8>())));
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&draft)?;
    let seed: [u8; 32] = random_bytes();
    let written = writeln!(file, "{}", hex::encode(seed)).and_then(|()| file.sync_all());
    let linked = written.and_then(|()| fs::hard_link(&draft, path));
    fs::remove_file(&draft)?;
    match linked {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        linked => linked.and_then(|()| File::open(directory)?.sync_all()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

    use super::*;
    use crate::config::Secret;

    fn config(folder: &Path) -> Config {
        Config {
            data_dir: folder.to_owned(),
            ..Config::default()
        }
    }

    #[test]
    fn the_embedded_default_makes_its_key_once_and_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&folder.path().join("new"));
        let first = of(&config).unwrap().unwrap().public_key();
        assert_eq!(of(&config).unwrap().unwrap().public_key(), first);
        let path = config.data_dir.join(FILE_NAME);
        #[cfg(unix)]
        {
            let mode = std::os::unix::fs::PermissionsExt::mode(
                &fs::metadata(&path).unwrap().permissions(),
            );
            assert_eq!(mode & 0o777, 0o600);
        }
        assert_eq!(
            fs::read_dir(&config.data_dir).unwrap().count(),
            1,
            "no draft is left"
        );
        make(&path).unwrap();
        assert_eq!(
            of(&config).unwrap().unwrap().public_key(),
            first,
            "it is never replaced"
        );
    }

    #[test]
    fn a_key_that_is_given_comes_before_all_others_and_no_key_is_ever_shown() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path());
        let seed = hex::encode([5_u8; 32]);
        let expected = Signer::of_seed(&[5; 32]).public_key();
        fs::write(folder.path().join("elsewhere"), "s3cret that is no key").unwrap();
        config.audit.signing_key_file = Some(folder.path().join("elsewhere").display().to_string());
        let error = of(&config).unwrap_err().to_string();
        assert!(
            error.starts_with("AUDIT_SIGNING_KEY_FILE: ") && !error.contains("s3cret"),
            "{error}"
        );
        fs::write(folder.path().join("elsewhere"), format!("{seed}\n")).unwrap();
        assert_eq!(of(&config).unwrap().unwrap().public_key(), expected);
        config.audit.signing_key_file = None;
        config.audit.signing_key = Some(Secret::new(seed));
        assert_eq!(of(&config).unwrap().unwrap().public_key(), expected);
        assert!(!folder.path().join(FILE_NAME).exists());
    }

    #[test]
    fn a_platform_on_a_server_makes_no_key_by_itself() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path());
        config.database_url = Some(Secret::new("postgresql://host/db"));
        assert!(of(&config).unwrap().is_none());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
