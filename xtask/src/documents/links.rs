//! Links and names of files that lead nowhere. mdBook, which makes the book, does not look.

use std::path::{Component, Path, PathBuf};

use anyhow::Result;

use super::{Page, Reference, pages};
use crate::workspace;

/// The folder of the book, which links of its pages do not leave: the book has nothing else.
const BOOK: &str = "docs/src/";
/// What a name has to end with to be taken for that of a file of ours.
const ENDINGS: [&str; 6] = [".rs", ".md", ".py", ".sh", ".toml", "/"];

/// Every link and name in the documents that leads nowhere, a line each.
pub fn broken() -> Result<Vec<String>> {
    Ok(broken_in(&pages()?, &workspace::files()?))
}

fn broken_in(pages: &[Page], files: &[String]) -> Vec<String> {
    let mut broken = Vec::new();
    for page in pages {
        let mut report = |reference: &Reference, why: &str| {
            broken.push(format!("{}:{}: {}: {why}", page.path, reference.line, reference.text));
        };
        for link in page.links.iter().filter(|link| !link.text.contains("://")) {
            follow(page, &link.text, pages, files).unwrap_or_else(|why| report(link, why));
        }
        page.names
            .iter()
            .filter(|name| !is_there(&name.text, files))
            .for_each(|name| report(name, "no such file"));
    }
    broken
}

/// Looks for what a link leads to.
fn follow(page: &Page, link: &str, pages: &[Page], files: &[String]) -> Result<(), &'static str> {
    let (path, anchor) = link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
    let target = match path {
        "" => page.path.clone(),
        _ => resolve(Path::new(&page.path).parent().unwrap_or(Path::new("")), path).ok_or("outside")?,
    };
    let inside = format!("{}/", target.trim_end_matches('/'));
    if !files.iter().any(|file| *file == target || file.starts_with(&inside)) {
        return Err("no such file");
    }
    if page.path.starts_with(BOOK) && !target.starts_with(BOOK) {
        return Err("not in the book");
    }
    match (anchor, pages.iter().find(|page| page.path == target)) {
        (Some(anchor), Some(page)) if !page.anchors.contains(anchor) => Err("no such heading"),
        _ => Ok(()),
    }
}

/// The path from the workspace's folder; `None` if it leaves that.
fn resolve(folder: &Path, path: &str) -> Option<String> {
    let mut resolved = PathBuf::new();
    for component in folder.join(path).components() {
        match component {
            Component::ParentDir => resolved.pop().then_some(())?,
            Component::Normal(name) => resolved.push(name),
            _ => {}
        }
    }
    resolved.into_os_string().into_string().ok()
}

/// Whether a name is that of a file or folder, as it ends or as a part of a path, or not a file's name at all.
fn is_there(name: &str, files: &[String]) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let ours =
        name.contains('/') && name.chars().all(plain) && ENDINGS.iter().any(|ending| name.ends_with(ending));
    if !ours || name.starts_with(['/', '.']) || name.starts_with("target/") {
        return true;
    }
    let inside = format!("/{name}");
    let fits = |file: &String| match name.ends_with('/') {
        true => format!("/{file}").contains(&inside),
        false => format!("/{file}").ends_with(&inside),
    };
    files.iter().any(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documents_lead_somewhere() {
        assert_eq!(broken().unwrap(), Vec::<String>::new());
    }

    #[test]
    fn what_leads_nowhere_is_found() {
        let files =
            ["README.md", "docs/src/a.md", "docs/src/b.md", "kernel/src/fs/pipe.rs"].map(String::from);
        let broken = |path: &str, text: &str| {
            broken_in(&[Page::parse(path, text), Page::parse("docs/src/b.md", "# B b\n")], &files)
        };
        let good = "[b](b.md#b-b) [self](#a) <https://example.org/x.rs> `fs/pipe.rs` `/proc/x.rs` `src/fs/`\n\n# A\n";
        assert_eq!(broken("docs/src/a.md", good), Vec::<String>::new());
        let bad = [
            ("[b](c.md)", "c.md: no such file"),
            ("[b](b.md#c)", "b.md#c: no such heading"),
            ("[b](#c)", "#c: no such heading"),
            ("[b](../../README.md)", "../../README.md: not in the book"),
            ("[b](../../../x.md)", "../../../x.md: outside"),
            ("`fs/pipes.rs`", "fs/pipes.rs: no such file"),
            ("`s/pipe.rs`", "s/pipe.rs: no such file"),
            ("`source/`", "source/: no such file"),
        ];
        for (text, why) in bad {
            assert_eq!(broken("docs/src/a.md", text), [format!("docs/src/a.md:1: {why}")]);
        }
    }
}
