//! A database file alone, as a source of pages.

use std::io;

use super::super::source::{Bytes, Pages, Version, bytes_before_end};
use super::header::page_size_of;

/// The pages of one database file, each in one version.
#[derive(Debug)]
pub struct Image<B> {
    file: B,
    page_size: usize,
    pages: u32,
}

impl<B: Bytes> Image<B> {
    /// Takes a database file; its page size is found even where its header is lost.
    pub fn new(file: B) -> io::Result<Self> {
        let page_size = page_size_of(&file)?;
        Ok(Self::with_page_size(file, page_size))
    }

    /// Takes a database file of a page size that is known.
    pub fn with_page_size(file: B, page_size: usize) -> Self {
        let pages = file.len().div_ceil(page_size as u64);
        Self {
            pages: u32::try_from(pages).unwrap_or(u32::MAX - 1),
            file,
            page_size,
        }
    }
}

impl<B: Bytes> Pages for Image<B> {
    fn page_size(&self) -> usize {
        self.page_size
    }

    fn highest(&self) -> u32 {
        self.pages
    }

    fn versions(&self, page: u32) -> Vec<Version> {
        if page == 0 || page > self.pages {
            return Vec::new();
        }
        vec![Version {
            page,
            transaction: None,
            at: u64::from(page - 1) * self.page_size as u64,
            proven: false,
        }]
    }

    fn read(&self, v: Version, buf: &mut [u8]) -> io::Result<()> {
        let got = self.file.read_at(buf, v.at)?;
        buf[got..].fill(0);
        Ok(())
    }

    fn present(&self, v: Version) -> usize {
        bytes_before_end(self.file.len(), v.at, self.page_size)
    }

    fn transaction_torn(&self, _: u32) -> bool {
        false
    }
}
