//! What CONTRIBUTING says has to be done to add something, done word for word to a copy of the tree.
//!
//! A comment before a block says where the block goes; it is indented as the line that it goes to:
//!
//! | Comment | Meaning |
//! |---|---|
//! | `recipe: FILE, new` | the block is a new file |
//! | `recipe: FILE, after LINE` | the block stands behind that line |
//! | `recipe: FILE, before LINE` | the block stands before that line |
//!
//! The copy is mounted over the original, in a mount namespace (unshare(1)) of the program that looks at it, with what was
//! built of the original beside it: for cargo and the compiler only the new lines are new.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use super::{Block, Page, pages};
use crate::build::{self, Profile};
use crate::progress::Step;
use crate::{process, toolchain, workspace};

/// The page with the recipes.
const PAGE: &str = "CONTRIBUTING.md";
/// Mounts the first argument over the second, and there runs the others.
const WITHIN: &str = r#"mount --bind "$1" "$2" && cd "$2" && shift 2 && exec "$@""#;

/// A copy of the tree in which every recipe was followed.
pub struct Copy(TempDir);

impl Copy {
    /// Copies what git knows and what is built of it, and follows the recipes in their order.
    pub fn with_recipes() -> Result<Self> {
        let copy = Self(workspace::scratch()?);
        copy.take(workspace::files()?.iter().map(Path::new))?;
        copy.take_built()?;
        let page =
            pages()?.into_iter().find(|page| page.path == PAGE).with_context(|| format!("no {PAGE}"))?;
        let steps = steps(&page)?;
        ensure!(!steps.is_empty(), "{PAGE} has no recipes");
        for (block, step) in steps {
            follow(copy.0.path(), block, step).with_context(|| block.place.clone())?;
        }
        Ok(copy)
    }

    /// A program of this workspace that sees the copy in the original's place; also the program is the copy's.
    pub fn command(&self, program: &Path) -> Result<Command> {
        let root = workspace::root();
        self.take([program.strip_prefix(&root).context("no program of this workspace")?].into_iter())?;
        let mut command = process::dies_with_us("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c", WITHIN, "sh"]).arg(self.0.path()).arg(&root);
        command.arg(program);
        Ok(command)
    }

    /// Copies the kernel and the programs as they were built, and what makes building them again quick.
    fn take_built(&self) -> Result<()> {
        build::kernel(Profile::Daily)?;
        build::user_programs()?;
        let _locks = [workspace::lock("kernel")?, workspace::lock("user")?];
        let kernel = Path::new("target/kernel");
        let (host, target) = (kernel.join("daily"), kernel.join(toolchain::TARGET).join("daily"));
        self.take([&*host, &target, Path::new("target/user")].into_iter())
    }

    /// Copies files and folders, with their times: what is not newer than what was built of it is not built again.
    fn take<'a>(&self, paths: impl Iterator<Item = &'a Path>) -> Result<()> {
        let mut copy = Command::new("cp");
        copy.args(["--archive", "--parents", "--reflink=auto", "--"]).args(paths).arg(self.0.path());
        process::run(copy.current_dir(workspace::root()), &Step::new("copying the tree")).map(drop)
    }
}

/// Where a block goes.
#[derive(Debug, PartialEq, Eq)]
enum Place<'a> {
    New,
    After(&'a str),
    Before(&'a str),
}

/// What a comment before a block says: the file, and where in it.
fn parse(comment: &str) -> Result<(&str, Place<'_>)> {
    let (file, place) = comment.split_once(", ").context("a recipe is `FILE, new|after LINE|before LINE`")?;
    let place = match place.split_once(' ') {
        None if place == "new" => Place::New,
        Some(("after", line)) => Place::After(line),
        Some(("before", line)) => Place::Before(line),
        _ => bail!("`{place}` is no place: new, after LINE or before LINE"),
    };
    Ok((file, place))
}

/// The blocks of a page that go into files.
fn steps(page: &Page) -> Result<Vec<(&Block, (&str, Place<'_>))>> {
    let mut steps = Vec::new();
    for block in &page.blocks {
        if let Some(recipe) = block.comment.as_deref().and_then(|comment| comment.strip_prefix("recipe: ")) {
            steps.push((block, parse(recipe).with_context(|| block.place.clone())?));
        }
    }
    Ok(steps)
}

/// Writes a block to where it goes.
fn follow(root: &Path, block: &Block, (file, place): (&str, Place<'_>)) -> Result<()> {
    let path: PathBuf = root.join(file);
    if place == Place::New {
        let new = OpenOptions::new().write(true).create_new(true).open(&path);
        return Ok(new.with_context(|| format!("cannot create {file}"))?.write_all(block.text.as_bytes())?);
    }
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {file}"))?;
    fs::write(&path, insert(&text, &block.text, &place).with_context(|| file.to_string())?)?;
    Ok(())
}

/// The text with a block beside a line, indented as that is.
fn insert(text: &str, block: &str, place: &Place<'_>) -> Result<String> {
    let (Place::After(wanted) | Place::Before(wanted)) = place else { bail!("a new file has no lines") };
    let mut lines: Vec<String> = text.lines().map(String::from).collect();
    let mut found = (0..lines.len()).filter(|&line| lines[line].trim() == *wanted);
    let (Some(line), None) = (found.next(), found.next()) else { bail!("`{wanted}` is not one line there") };
    let indent = lines[line][..lines[line].len() - lines[line].trim_start().len()].to_string();
    let block =
        block.lines().map(|line| if line.is_empty() { String::new() } else { format!("{indent}{line}") });
    let at = if matches!(place, Place::After(_)) { line + 1 } else { line };
    lines.splice(at..at, block);
    Ok(lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_says_where_a_block_goes() {
        assert_eq!(parse("a.rs, new").unwrap(), ("a.rs", Place::New));
        assert_eq!(parse("a.rs, after f(a, b);").unwrap(), ("a.rs", Place::After("f(a, b);")));
        assert_eq!(parse("a.rs, before }").unwrap(), ("a.rs", Place::Before("}")));
        assert!(parse("a.rs, behind }").is_err());
        assert!(parse("a.rs").is_err());
    }

    #[test]
    fn a_block_is_indented_as_the_line_beside_it() {
        let text = "list {\n    a;\n    c;\n}\n";
        assert_eq!(insert(text, "b;\n", &Place::After("a;")).unwrap(), "list {\n    a;\n    b;\n    c;\n}\n");
        assert_eq!(
            insert(text, "b;\n\ne;\n", &Place::Before("c;")).unwrap(),
            "list {\n    a;\n    b;\n\n    e;\n    c;\n}\n"
        );
    }

    #[test]
    fn a_line_that_is_not_there_or_there_twice_is_no_place() {
        assert!(insert("a\nb\n", "x\n", &Place::After("c")).unwrap_err().to_string().contains("`c`"));
        assert!(insert("a\na\n", "x\n", &Place::After("a")).is_err());
    }

    #[test]
    fn every_recipe_of_the_page_can_be_followed() {
        let pages = pages().unwrap();
        let page = pages.iter().find(|page| page.path == PAGE).unwrap();
        let folder = workspace::scratch().unwrap();
        for (block, (file, place)) in steps(page).unwrap() {
            let copy = folder.path().join(file);
            fs::create_dir_all(copy.parent().unwrap()).unwrap();
            if !copy.exists() && place != Place::New {
                fs::copy(workspace::root().join(file), &copy).unwrap();
            }
            follow(folder.path(), block, (file, place)).unwrap();
        }
    }
}
