//! `bylaw constitution check`: what is wrong with constitution files, and what is doubtful.

use clap::Args;

use crate::cli::output;
use crate::cli::output::{counted, say};
use crate::cli::session::Session;
use crate::cli::variables::Variables;
use crate::constitution::{self, BUDGET, Checked, Diagnostic, Severity};
use crate::error::{Error, Result};

#[derive(Debug, Args)]
#[command(after_long_help = lints_help())]
pub struct Check {
    /// Files, or `builtin:NAME`.
    #[arg(required = true)]
    files: Vec<String>,
    #[command(flatten)]
    variables: Variables,
    /// Tokens of a request, about, from which it is too long.
    #[arg(long, default_value_t = BUDGET, value_name = "TOKENS")]
    budget: usize,
    /// Warnings are errors: the exit code is 2 with any of them.
    #[arg(long)]
    deny_warnings: bool,
}

fn lints_help() -> String {
    let mut help = "Warnings are of these lints. A file allows one with `allow = [\"NAME\"]` at its top, a principle \
                    with the same line in its table:\n"
        .to_owned();
    for (name, about) in constitution::LINTS {
        help.push_str(&format!("\n  {name:<20} {about}"));
    }
    help.push_str("\n\nExit code 2 if there is an error.");
    help
}

pub fn run(session: &Session, args: &Check) -> Result<()> {
    let references: Vec<&str> = args.files.iter().map(String::as_str).collect();
    let values = args.variables.of_each(&references);
    let (mut errors, mut warnings) = (0, 0);
    let mut files = Vec::new();
    for (file, values) in args.files.iter().zip(&values) {
        let checked = match constitution::check(file, values, args.budget) {
            Ok(checked) => checked,
            // A file that cannot be read at all; the others are checked all the same.
            Err(error) => {
                errors += 1;
                files.push(serde_json::json!({ "file": file, "unreadable": error.to_string() }));
                if !session.json {
                    output::report_error(&error);
                }
                continue;
            }
        };
        errors += count(&checked.findings, Severity::Error);
        warnings += count(&checked.findings, Severity::Warning);
        if session.json {
            files.push(document(file, &checked));
        } else {
            tell(session, file, &checked)?;
        }
    }
    if session.json {
        output::json(&serde_json::json!({ "errors": errors, "warnings": warnings, "files": files }))?;
    }
    let failing = if args.deny_warnings { errors + warnings } else { errors };
    match failing {
        0 => Ok(()),
        _ => Err(Error::config(format!(
            "{}, {}",
            counted(errors as u64, "error"),
            counted(warnings as u64, "warning")
        ))
        .help("each finding above says where and what to do; `bylaw constitution check --help` lists the lints")),
    }
}

fn count(findings: &[Diagnostic], severity: Severity) -> usize {
    findings.iter().filter(|finding| finding.severity == severity).count()
}

fn document(file: &str, checked: &Checked) -> serde_json::Value {
    let read = checked.constitution.as_ref();
    serde_json::json!({
        "file": file,
        "principles": read.map(|constitution| constitution.principles.len()),
        "sha256": read.map(|constitution| constitution.hash.clone()),
        "diagnostics": checked.findings.iter().map(Diagnostic::to_json).collect::<Vec<_>>(),
    })
}

fn tell(session: &Session, file: &str, checked: &Checked) -> Result<()> {
    for finding in &checked.findings {
        output::diagnostic(finding);
    }
    if let Some(constitution) = checked.constitution.as_ref().filter(|_| !session.quiet) {
        let principles = constitution.principles.len();
        let findings = match checked.findings.len() {
            0 => "no findings".to_owned(),
            count => counted(count as u64, "warning"),
        };
        say!("{file}: {}, {findings}", counted(principles as u64, "principle"));
    }
    Ok(())
}
