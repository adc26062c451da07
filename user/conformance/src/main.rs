//! The conformance program: does what Linux programs do and writes down what came back.
//!
//! It is built once, static, and run twice: on a Linux host and inside nrk. Its transcript holds no process
//! numbers, addresses, times or anything else that differs between two correct kernels, so the two must be
//! equal, line by line; a line that differs is a bug of nrk, named.
//!
//! ```text
//! conformance                    every section
//! conformance SECTION...         these
//! conformance --list             their names
//! conformance --dir DIR ...      works in DIR instead of /tmp
//! ```
//!
//! Each line is `section/case.what: outcome`. A case is one function, run in a forked child of its own, in an
//! empty directory of its own, under a watchdog: one that crashes or hangs gives one line and the rest goes
//! on. [`transcript`] says how outcomes are written, [`runner`] how cases are run, [`sections`] holds the
//! cases, [`fixture`] what several of them share, and [`helper`] what the program does when a case executes
//! it.

mod fixture;
mod helper;
mod net;
mod runner;
mod sections;
mod transcript;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(args) = helper::arguments(&args) {
        return helper::run(&args);
    }
    match Request::parse(&args) {
        Ok(Request::List) => list(),
        Ok(Request::Run { dir, sections }) => runner::run(&dir, &sections),
        Err(message) => {
            eprintln!("conformance: {message}");
            ExitCode::from(2)
        }
    }
}

/// What the command line asks for.
enum Request {
    List,
    Run { dir: String, sections: Vec<&'static transcript::Section> },
}

impl Request {
    fn parse(args: &[String]) -> Result<Self, String> {
        let mut dir = "/tmp".to_owned();
        let mut chosen = Vec::new();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--list" => return Ok(Self::List),
                "--dir" => dir = args.next().ok_or("--dir needs a directory")?.clone(),
                name => chosen.push(sections::find(name).ok_or_else(|| format!("no section named {name}"))?),
            }
        }
        if chosen.is_empty() {
            chosen.extend(sections::ALL);
        }
        Ok(Self::Run { dir, sections: chosen })
    }
}

/// Prints the names of the sections.
fn list() -> ExitCode {
    for section in sections::ALL {
        println!("{}", section.name);
    }
    ExitCode::SUCCESS
}
