//! The documents as something that can be checked: README, ARCHITECTURE, CONTRIBUTING, the book and the decisions.
//!
//! [`Page`] is what matters of a page: links, anchors, names of files, fenced blocks. [`links`] finds names that lead nowhere,
//! [`commands`] runs the commands that a page shows, and [`recipes`] does what a page says has to be done. What a reader need
//! not see stands in a comment before a block: `<!-- run -->`, `<!-- not run: it takes minutes -->`, `<!-- recipe: ... -->`.

pub mod commands;
pub mod links;
pub mod recipes;

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result};
use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

use crate::workspace;

/// What a page refers to, and in which line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The line, from 1.
    pub line: usize,
    /// A link's destination, or a name in code type.
    pub text: String,
}

/// A fenced block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The page and the line of the fence, as compilers write it.
    pub place: String,
    /// The word behind the fence.
    pub language: String,
    /// The lines of the block.
    pub text: String,
    /// What the comment right before it says.
    pub comment: Option<String>,
}

/// A page of Markdown.
#[derive(Debug, Default)]
pub struct Page {
    /// Its path from the workspace's folder.
    pub path: String,
    /// Destinations of links and pictures.
    pub links: Vec<Reference>,
    /// What is set in code type within the text.
    pub names: Vec<Reference>,
    /// What `#...` can lead to.
    pub anchors: BTreeSet<String>,
    /// Fenced blocks.
    pub blocks: Vec<Block>,
}

/// All pages.
pub fn pages() -> Result<Vec<Page>> {
    let read = |path: String| {
        let text = fs::read_to_string(workspace::root().join(&path));
        Ok(Page::parse(&path, &text.with_context(|| format!("cannot read {path}"))?))
    };
    workspace::files()?.into_iter().filter(|path| path.ends_with(".md")).map(read).collect()
}

impl Page {
    /// Reads a page.
    pub fn parse(path: &str, text: &str) -> Self {
        let mut page = Self { path: path.into(), ..Self::default() };
        let mut heading: Option<String> = None;
        let mut block: Option<Block> = None;
        let mut comment = None;
        for (event, range) in Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter() {
            let line = text[..range.start].matches('\n').count() + 1;
            match event {
                Event::Start(Tag::CodeBlock(kind)) => {
                    let language = match kind {
                        CodeBlockKind::Fenced(language) => language.to_string(),
                        CodeBlockKind::Indented => String::new(),
                    };
                    let (place, comment) = (format!("{path}:{line}"), comment.take());
                    block = Some(Block { place, language, text: String::new(), comment });
                }
                Event::End(TagEnd::CodeBlock) => page.blocks.extend(block.take()),
                Event::Html(html) => comment = comment_of(&html),
                Event::Start(Tag::HtmlBlock) | Event::End(TagEnd::HtmlBlock) => {}
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => page.add_anchor(&heading.take().unwrap_or_default()),
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.links.push(Reference { line, text: dest_url.to_string() });
                }
                Event::Text(text) => match (&mut block, &mut heading) {
                    (Some(block), _) => block.text.push_str(&text),
                    (None, Some(heading)) => heading.push_str(&text),
                    (None, None) => comment = None,
                },
                Event::Code(name) => {
                    heading.iter_mut().for_each(|heading| heading.push_str(&name));
                    page.names.push(Reference { line, text: name.to_string() });
                }
                _ => {}
            }
        }
        page
    }

    /// As mdBook and GitHub make them of headings; a repeated one gets a number.
    fn add_anchor(&mut self, heading: &str) {
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        let anchor: String =
            kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect();
        let numbered = (1..).map(|number| format!("{anchor}-{number}"));
        let free = std::iter::once(anchor.clone()).chain(numbered).find(|name| !self.anchors.contains(name));
        self.anchors.extend(free);
    }
}

fn comment_of(html: &str) -> Option<String> {
    Some(html.trim().strip_prefix("<!--")?.strip_suffix("-->")?.trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# A page: `x`\n\nSee [there](other.md#part) and `src/lib.rs`.\n\n<!-- run -->\n```console\n\
        $ true\n```\n\n<!-- lost -->\n\nText.\n\n```text\nline\n```\n\n## Part\n\n## Part\n";

    #[test]
    fn a_page_is_taken_apart() {
        let page = Page::parse("a.md", PAGE);
        let reference = |line, text: &str| Reference { line, text: text.into() };
        assert_eq!(page.links, [reference(3, "other.md#part")]);
        assert_eq!(page.names, [reference(1, "x"), reference(3, "src/lib.rs")]);
        assert_eq!(page.anchors.iter().collect::<Vec<_>>(), ["a-page-x", "part", "part-1"]);
        let block = |place: &str, language: &str, text: &str, comment: Option<&str>| Block {
            place: place.into(),
            language: language.into(),
            text: text.into(),
            comment: comment.map(Into::into),
        };
        let first = block("a.md:6", "console", "$ true\n", Some("run"));
        assert_eq!(page.blocks, [first, block("a.md:14", "text", "line\n", None)]);
    }
}
