//! A flame graph (Gregg, CACM 59(6), 2016): a box for each function as wide as what it executed, on top of its caller.

use std::io::BufWriter;
use std::path::Path;

use anyhow::{Context, Result};
use inferno::flamegraph::{self, Options, Palette, color::BasicPalette};

use super::tally::Tally;
use crate::workspace;

/// Pixels; so wide that names can be read, and no wider than a screen.
const WIDTH: usize = 1400;
/// Boxes that are narrower, in per cent, are left out.
const NARROWEST: f64 = 0.1;
/// A program's functions lie side by side, without callers: those that are smaller, in per cent, are one box.
const SMALLEST: f64 = 0.5;

/// A name that fits into a box: the last two parts of the path, without generic arguments and closures. `<T as Trait>::f` and
/// `module::<impl T>::f` are functions of T.
fn short(name: &str) -> String {
    let parts: Vec<String> = parts(name)
        .into_iter()
        .filter(|part| *part != "{{closure}}" && !part.is_empty())
        .map(|part| match part.strip_prefix('<').and_then(|part| part.strip_suffix('>')) {
            Some(inner) => {
                let inner = inner.strip_prefix("impl ").unwrap_or(inner);
                let implementor = inner.split_once(" for ").map_or(inner, |(_, implementor)| implementor);
                let implementor =
                    implementor.split_once(" as ").map_or(implementor, |(implementor, _)| implementor);
                short(implementor).rsplit("::").next().unwrap_or_default().to_string()
            }
            None => part.split('<').next().unwrap_or_default().to_string(),
        })
        .collect();
    parts[parts.len().saturating_sub(2)..].join("::")
}

/// The parts of a path; what stands between angle brackets is not divided.
fn parts(path: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_usize, 0);
    for (index, character) in path.char_indices() {
        match character {
            '<' => depth += 1,
            '>' => depth = depth.saturating_sub(1),
            ':' if depth == 0 => {
                parts.push(&path[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&path[start..]);
    parts
}

/// Draws a profile, its counts divided by `per`, into an SVG file.
pub fn draw(tally: &Tally, per: u64, title: &str, path: &Path) -> Result<()> {
    let folded = tally.with_small_ones_merged(SMALLEST).folded(1, short);
    let mut options = Options::default();
    options.title = title.to_string();
    options.subtitle = Some(tally.summary(per));
    options.count_name = if per == 1 { "instructions".into() } else { "instructions each".into() };
    options.factor = 1.0 / per as f64;
    options.image_width = Some(WIDTH);
    options.min_width = NARROWEST;
    options.colors = Palette::Basic(BasicPalette::Aqua);
    options.deterministic = true;
    workspace::write_atomically(path, |file| {
        flamegraph::from_lines(&mut options, folded.lines(), BufWriter::new(file))
            .with_context(|| format!("cannot draw {}", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shortened_to_what_tells_most() {
        for (name, expected) in [
            ("nrk::sched::executor::run", "executor::run"),
            ("nrk::net::service::serve::{{closure}}", "service::serve"),
            ("nrk::net::tcp::step::<impl nrk::net::tcp::TcpSocket>::step", "TcpSocket::step"),
            ("<nrk::fs::memfs::inode::Inode as nrk::fs::file::PageSource>::page", "Inode::page"),
            ("<core::future::poll_fn::PollFn<F> as core::future::future::Future>::poll", "PollFn::poll"),
            ("core::ptr::drop_in_place<alloc::vec::Vec<u8>>", "ptr::drop_in_place"),
            ("processMultibulkBuffer", "processMultibulkBuffer"),
            ("0xffffffff80200000", "0xffffffff80200000"),
            ("libraries and other programs", "libraries and other programs"),
        ] {
            assert_eq!(short(name), expected, "{name}");
        }
    }

    #[test]
    fn boxes_stand_on_their_callers() {
        let stack = |names: &[&str]| names.iter().map(|name| (*name).to_string()).collect();
        let tally =
            Tally::of_stacks([(stack(&["kernel", "nrk::a::b", "nrk::c::d"]), 30), (stack(&["kernel"]), 10)]);
        let file = tempfile::NamedTempFile::new().unwrap();
        draw(&tally, 10, "title", file.path()).unwrap();
        let svg = std::fs::read_to_string(file.path()).unwrap();
        for text in [
            "title",
            "4 instructions, each of 10: 4 in the kernel (100 %), 0 in user mode (0 %)",
            "<title>kernel (4 instructions each, ",
            "<title>a::b (3 instructions each, 75",
            "<title>c::d (3 ",
        ] {
            assert!(svg.contains(text), "no {text:?} in {svg}");
        }
    }
}
