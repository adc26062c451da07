//! `book-builder BOOK`: what `mdbook build BOOK` does.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use anyhow::{Context, Result};
use mdbook_driver::MDBook;

fn main() -> Result<()> {
    let book = std::env::args_os().nth(1).map(PathBuf::from).context("usage: book-builder BOOK")?;
    MDBook::load(&book).with_context(|| format!("cannot load {}", book.display()))?.build()
}
