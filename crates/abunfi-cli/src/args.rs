//! What can be asked on the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// A hybrid data platform for small savings: PostgreSQL keeps the money, MongoDB the documents, Redis
/// makes it fast. With nothing configured it runs by itself, on one file.
#[derive(Debug, Parser)]
#[command(name = "abunfi", version, after_help = EXAMPLE)]
pub(crate) struct Cli {
    /// Answer with JSON on standard output, for programs
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) settings: SettingFlags,

    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLE: &str = "\
Example:
  abunfi serve                                   the whole platform on http://127.0.0.1:3001
  DATABASE_URL=postgresql://… abunfi check       are these stores fit for it?

Settings come from a TOML file, then the environment, then flags; `abunfi config` shows all of them.";

/// Flags for the settings that are changed most. All are in the environment and in the file as well.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Settings")]
pub(crate) struct SettingFlags {
    /// A TOML file with settings [variable: ABUNFI_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Where the service listens [variable: HOST]
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub(crate) host: Option<String>,

    /// The port it listens on; 0 takes one that is free [variable: PORT]
    #[arg(long, global = true, value_name = "PORT")]
    pub(crate) port: Option<String>,

    /// Where it keeps its files [variable: DATA_DIR]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data_dir: Option<String>,

    /// PostgreSQL or SQLite; a password here shows in the list of processes [variable: DATABASE_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) database_url: Option<String>,

    /// MongoDB [variable: MONGODB_URI]
    #[arg(long, global = true, value_name = "URI")]
    pub(crate) mongodb_uri: Option<String>,

    /// Redis [variable: REDIS_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) redis_url: Option<String>,

    /// trace, debug, info, warn or error [variable: LOG_LEVEL]
    #[arg(long, global = true, value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,

    /// auto, pretty or json [variable: LOG_FORMAT]
    #[arg(long, global = true, value_name = "FORMAT")]
    pub(crate) log_format: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the service until it is told to stop
    #[command(after_help = "\
Example:
  abunfi serve --port 8080

Stops on SIGTERM or Ctrl-C: takes nothing new, ends what runs, writes out what is due, exits with 0.")]
    Serve,

    /// Test the configured stores, and leave nothing behind
    #[command(after_help = "\
Example:
  abunfi check --json | grep -c '\"failed\"'

Exits with 1 if a check fails.")]
    Check,

    /// Recompute the books from their rows, and name what disagrees
    #[command(after_help = "\
Example:
  abunfi verify --anchor anchor.json --public-key 1f0c…

Exits with 0 if nothing disagrees, with 1 if something does, with 2 if it was asked wrongly. The last line says what
vouches for the books: a checkpoint's signature by --public-key, a published checkpoint, or nothing yet.
Changes nothing, also no schema and no hold that is due; safe beside a running service.")]
    Verify(Verify),

    /// Show per asset what users have, every system account, and that it comes to zero
    #[command(after_help = "\
Example:
  abunfi accounts --asset VND")]
    Accounts {
        /// This asset only
        #[arg(long, value_name = "ASSET")]
        asset: Option<String>,
    },

    /// Bring the relational schema up to date
    #[command(after_help = "\
Example:
  DATABASE_DIRECT_URL=postgresql://… abunfi migrate

Safe beside running instances and beside another `abunfi migrate`. `abunfi serve` does it too, unless
MIGRATE_ON_START is false.")]
    Migrate,

    /// Show the settings in force and where each comes from, with secrets masked
    #[command(after_help = "\
Example:
  abunfi config | grep DATABASE")]
    Config,

    /// Make, list and revoke service keys; no running service is needed
    #[command(
        subcommand,
        after_help = "\
Example:
  abunfi keys create payments --scopes read,money"
    )]
    Keys(Keys),

    /// Checkpoints, exports and proofs of the audit trail; check them without a database
    #[command(
        subcommand,
        after_help = "\
Example:
  abunfi audit export --out books.jsonl && abunfi audit check books.jsonl

The format is in docs/audit-format.md, for whoever wants to check with a program of their own."
    )]
    Audit(Audit),

    /// Show figures of the stores and of the platform
    #[command(after_help = "\
Example:
  abunfi stats --json")]
    Stats,

    /// Print the OpenAPI description of the HTTP interface
    #[command(after_help = "\
Example:
  abunfi openapi > openapi.json")]
    Openapi,
}

/// How to verify.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// Only the chains that have changed since this checkpoint, from their rows in it on; it is believed, so give none
    /// that is newer than the checkpoint of an earlier clean run
    #[arg(long, value_name = "CHECKPOINT")]
    pub(crate) since: Option<i64>,

    /// Prove the books against a published checkpoint: a file that `abunfi audit anchor` wrote
    #[arg(long, value_name = "FILE")]
    pub(crate) anchor: Option<PathBuf>,

    /// The newest checkpoint must be signed by this key, or by one of several, and none by another: 64 hexadecimal
    /// digits
    #[arg(long, value_name = "KEY")]
    pub(crate) public_key: Vec<String>,

    /// Parts that are read and judged at once; as many as there are processors, up to 8
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(crate) workers: Option<u8>,

    /// How many disagreements are shown; all are counted
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    pub(crate) findings: u16,
}

/// Who does something that the audit trail keeps.
#[derive(Debug, Args)]
pub(crate) struct By {
    /// Who you are, for the audit trail: its row is by `cli:NAME` for good, else by `cli`; 1 to 100 visible ASCII
    /// characters, a staff handle and no personal data
    #[arg(long, value_name = "NAME")]
    pub(crate) actor: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Make a key; its token is shown this once
    #[command(after_help = "\
Example:
  abunfi keys create payments --scopes read,money

A key belongs to its owner's name: give the next key of the same service the same name, and requests
that were sent with the old one can be repeated with the new one.")]
    Create {
        /// Whose key it is: 1 to 100 visible ASCII characters
        owner: String,

        /// Any of read, write, money, operate, separated by commas
        #[arg(
            long,
            value_name = "SCOPES",
            default_value = "read,write,money,operate"
        )]
        scopes: String,

        #[command(flatten)]
        by: By,
    },

    /// List all keys, newest first
    #[command(after_help = "\
Example:
  abunfi keys list --json")]
    List,

    /// Revoke a key; every instance refuses it within a second
    #[command(after_help = "\
Example:
  abunfi keys revoke 019a0000-0000-7000-8000-000000000000")]
    Revoke {
        /// The key's id, as `abunfi keys list` shows it
        id: String,

        #[command(flatten)]
        by: By,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// Make a key that signs checkpoints; nothing is stored
    #[command(after_help = "\
Example:
  AUDIT_SIGNING_KEY=$(abunfi audit keygen) abunfi serve

The key is alone on standard output. Give the public key, on standard error, to those who check.")]
    Keygen,

    /// Make a checkpoint now, if there is anything new
    #[command(after_help = "\
Example:
  abunfi audit checkpoint --json

The service makes them by itself, every AUDIT_CHECKPOINT_MINUTES. One is made at a time: when another instance
is at it, this says so and makes none. Once one is signed, none is made without AUDIT_SIGNING_KEY.")]
    Checkpoint,

    /// Write the newest checkpoint, to be published where nobody can take it back
    #[command(after_help = "\
Example:
  abunfi audit anchor --out anchor.json")]
    Anchor {
        /// Where to write; else standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },

    /// Write all that an outsider needs to recompute the books, as JSON lines
    #[command(after_help = "\
Example:
  abunfi audit export --out books.jsonl

Streams in bounded memory, beside a running service. Nothing personal is in it. With --since it holds the
checkpoints and the rows of the trail that came after that checkpoint.")]
    Export {
        /// Where to write; else standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,

        /// Only what came after this checkpoint
        #[arg(long, value_name = "CHECKPOINT", default_value_t = 0)]
        since: i64,
    },

    /// Write a user's chains with the proof that the newest checkpoint covers them
    #[command(after_help = "\
Example:
  abunfi audit prove 019a0000-0000-7000-8000-000000000000 --out proof.json")]
    Prove {
        /// The user's id
        user: String,

        /// Where to write; else standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },

    /// Check an export, a proof or an anchor; needs no database and no configuration
    #[command(after_help = "\
Example:
  abunfi audit check books.jsonl --public-key 3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29
  abunfi audit check books.jsonl --anchor anchor.json

Exits with 0 if everything agrees, with 1 if anything disagrees, with 2 if a file is missing or cannot be read.

With --anchor the file must hold the checkpoint that was published, with its root. An export with --since holds
those from that checkpoint on; a proof holds one.")]
    Check {
        /// What `export`, `prove` or `anchor` wrote; - reads standard input
        file: PathBuf,

        /// The newest checkpoint must be signed by this key, and none by another; may be given more than once
        #[arg(long = "public-key", value_name = "HEX")]
        public_keys: Vec<String>,

        /// The file must hold this published checkpoint: a file that `abunfi audit anchor` wrote
        #[arg(long, value_name = "FILE")]
        anchor: Option<PathBuf>,
    },

    /// Erase what is personal in a user's trail; it verifies as before
    #[command(after_help = "\
Example:
  abunfi audit erase 019a0000-0000-7000-8000-000000000000 --actor anna

Reasons and KYC data of the trail go, with the salts of their commitments, and a row `erase` is added to the
user's chain. What the user record itself holds is not touched.")]
    Erase {
        /// The user's id
        user: String,

        #[command(flatten)]
        by: By,
    },
}
