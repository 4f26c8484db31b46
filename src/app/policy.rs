//! The daemon's policy; and `volattachd policy`: tools for whoever writes one. They need no daemon, and touch nothing, but `check`
//! and `explain` ask the servers that rules name.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, Subcommand};

use super::metrics::PolicyFigures;
use super::remote::PolicyServers;
use crate::config::{REMOTE_TIMEOUT, Settings};
use crate::policy::{
    self, Attributes, Credentials, DEFAULTS, Policy, PolicyFiles, PolicyStore, Sources, Target,
    Value, Why,
};

/// The exit code of a policy that denies, or in which something was found.
const NO: u8 = 1;

/// The exit code where there is no answer: a file cannot be read, or is refused.
const REFUSED: u8 = 2;

/// Tools for whoever writes a policy; they need no daemon, and touch nothing
///
/// check and explain ask the servers that a policy's http: and https: checks name, which have 5 s to answer.
///
/// The rules are those of the service; a policy file, and then a directory of them, replace some and add others.
/// Exit codes: 0 allowed, or nothing is wrong; 1 denied, or something is likely wrong; 2 a file cannot be read or is
/// refused, or the command line is malformed.
#[derive(Debug, Args)]
pub(super) struct PolicyArgs {
    #[command(subcommand)]
    tool: Tool,
}

#[derive(Debug, Subcommand)]
enum Tool {
    /// Prints a policy file with every rule, described and commented out
    Sample,
    /// Prints whether a rule allows a caller what it asks for: allow or deny
    Check(Question),
    /// Tells how a rule comes to what check says: each check with its value, and why
    Explain(Question),
    /// Lists what is likely wrong: what never holds and why that matters, unknown rules, roles and names
    Validate {
        #[command(flatten)]
        files: Files,
        /// A file of the roles that the deployment has, one a line, besides those that every Keystone has
        #[arg(long, value_name = "FILE")]
        roles: Option<PathBuf>,
    },
    /// Prints a policy file in JSON as one in YAML, as oslopolicy-convert-json-to-yaml does
    Convert {
        /// The policy file
        #[arg(value_name = "FILE")]
        json: PathBuf,
    },
    /// Lists the rules of files that say what the service says without them
    ListRedundant {
        #[command(flatten)]
        files: Files,
    },
}

#[derive(Debug, Args)]
struct Files {
    /// The policy file
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// A directory of policy files that are read after it, in the order of their names
    #[arg(long, value_name = "DIR")]
    policy_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Question {
    #[command(flatten)]
    files: Files,
    /// The caller, a JSON object; is_admin is computed from context_is_admin unless it is there
    #[arg(long, value_name = "FILE")]
    credentials: PathBuf,
    /// What is called for, a flat JSON object
    #[arg(long, value_name = "FILE")]
    target: PathBuf,
    /// The authorities, PEM, of the servers that https: checks ask
    #[arg(long, value_name = "FILE")]
    remote_ca: Option<PathBuf>,
    /// The rule's name
    rule: String,
}

/// The daemon's policy; the figures count what becomes of its files.
///
/// # Errors
/// Where a file cannot be read or is refused.
pub(super) fn open(
    settings: &Settings,
    figures: Arc<PolicyFigures>,
) -> anyhow::Result<PolicyStore> {
    PolicyStore::open(files(settings)?, move |reloaded| {
        figures.reloaded(reloaded.is_ok());
    })
    .context("cannot use the policy: correct it (volattachd policy validate)")
}

/// Looks at the policy that the daemon would use.
///
/// # Errors
/// Where a file cannot be read or is refused.
pub(super) fn check(settings: &Settings) -> anyhow::Result<()> {
    files(settings)?
        .load()
        .context("the policy cannot be used")?;
    Ok(())
}

/// Where the daemon's policy is.
///
/// # Errors
/// Where the authorities of policy servers cannot be read.
pub(super) fn files(settings: &Settings) -> anyhow::Result<PolicyFiles> {
    let given = &settings.policy;
    let remote = PolicyServers::new(given.remote_ca.as_deref(), given.remote_timeout)
        .context("cannot use policy.remote_ca")?;
    Ok(PolicyFiles {
        file: given.file.clone(),
        dir: given.directory.clone(),
        roles: given.roles.clone(),
        remote: Some(Arc::new(remote)),
    })
}

/// Runs one of the tools.
pub(super) fn run(args: PolicyArgs) -> ExitCode {
    let mut out = String::new();
    let result = answer(args.tool, &mut out).and_then(|yes| {
        // Whoever read the answer has seen enough of it.
        match io::stdout().write_all(out.as_bytes()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(error).context("cannot print the answer")
            }
            _ => Ok(yes),
        }
    });
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(NO),
        Err(error) => {
            eprintln!("volattachd: {error:#}");
            ExitCode::from(REFUSED)
        }
    }
}

fn answer(tool: Tool, out: &mut String) -> anyhow::Result<bool> {
    match tool {
        Tool::Sample => out.push_str(&policy::sample()),
        Tool::Convert { json } => out.push_str(&policy::convert(&json)?),
        Tool::ListRedundant { files } => {
            for (name, check) in files.load()?.redundant() {
                out.push_str(&format!("\"{name}\": \"{check}\"\n"));
            }
        }
        Tool::Validate { files, roles } => {
            let policy = files.load()?;
            let findings = policy.findings(&roles_in(roles.as_deref())?);
            for finding in &findings {
                out.push_str(&format!("{finding}\n"));
            }
            return Ok(findings.is_empty());
        }
        Tool::Check(question) => {
            let decision = question.answer(async |policy, rule, caller, target| {
                policy.decide(rule, caller, target).await
            })?;
            out.push_str(if decision.allowed {
                "allow\n"
            } else {
                "deny\n"
            });
            if let Why::Fault { .. } = decision.why {
                eprintln!("volattachd: {}", decision.why);
            }
            return Ok(decision.allowed);
        }
        Tool::Explain(question) => {
            let explanation = question.answer(async |policy, rule, caller, target| {
                policy.explain(rule, caller, target).await
            })?;
            out.push_str(&explanation.to_string());
            return Ok(explanation.decision.allowed);
        }
    }
    Ok(true)
}

impl Files {
    fn load(&self) -> anyhow::Result<Policy> {
        Ok(Policy::load(Sources {
            defaults: DEFAULTS,
            enforce_new_defaults: true,
            file: self.policy.as_deref(),
            dir: self.policy_dir.as_deref(),
        })?)
    }
}

impl Question {
    /// Puts the question, with an answer for as long as it takes the servers that the policy asks.
    fn answer<T>(
        self,
        ask: impl AsyncFnOnce(&Policy, &str, &Credentials, &Target) -> T,
    ) -> anyhow::Result<T> {
        let remote = PolicyServers::new(self.remote_ca.as_deref(), REMOTE_TIMEOUT)
            .context("cannot use --remote-ca")?;
        let policy = self.files.load()?.asking(Arc::new(remote));
        let attributes = object_in(&self.credentials, "credentials")?;
        let target = Target::new(object_in(&self.target, "target")?);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot make a runtime")?;
        Ok(runtime.block_on(async {
            let credentials = policy.credentials(attributes).await;
            ask(&policy, &self.rule, &credentials, &target).await
        }))
    }
}

fn object_in(path: &Path, what: &str) -> anyhow::Result<Attributes> {
    let doing = || format!("cannot read the {what} {}", path.display());
    let text = fs::read_to_string(path).with_context(doing)?;
    match serde_json::from_str(&text).with_context(doing)? {
        Value::Map(entries) => Ok(entries),
        _ => Err(anyhow::anyhow!("it must hold a JSON object")).with_context(doing),
    }
}

fn roles_in(path: Option<&Path>) -> anyhow::Result<Vec<String>> {
    let Some(path) = path else {
        return Ok(Vec::new());
    };
    let text = fs::read_to_string(path)
        .with_context(|| format!("cannot read the roles {}", path.display()))?;
    let lines = text.lines().map(str::trim);
    let names = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(names.map(ToOwned::to_owned).collect())
}
