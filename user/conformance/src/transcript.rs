//! How outcomes are written down.
//!
//! [`Section`] names its cases; a case gets a [`Transcript`] and says to it what came back, as anything that
//! is [`Show`]. Nothing here buffers: a line leaves with one `write`, so that what a case said before it
//! crashed is there, and in order with what its children say.

use user_sys::{Ended, Errno, Res, errno_name, sys};

/// A case: its name, and the function that runs it.
pub type Case = (&'static str, fn(Transcript));

/// A named group of cases, one file under `sections/`.
#[derive(Debug)]
pub struct Section {
    /// First part of every line.
    pub name: &'static str,
    /// The cases with their names, in the order in which they run.
    pub cases: &'static [Case],
}

/// Defines the section of a file: its name, then the functions that are its cases.
#[macro_export]
macro_rules! section {
    ($name:literal: $($case:ident),* $(,)?) => {
        /// The section of this file.
        pub const SECTION: $crate::transcript::Section = $crate::transcript::Section {
            name: $name,
            cases: &[$((stringify!($case), $case)),*],
        };
    };
}

/// Where a case writes its lines.
#[derive(Clone, Copy, Debug)]
pub struct Transcript {
    section: &'static str,
    case: &'static str,
}

impl Transcript {
    /// The transcript of one case.
    pub fn new(section: &'static str, case: &'static str) -> Self {
        Self { section, case }
    }

    /// Writes the line `section/case.what: outcome`.
    pub fn say(&self, what: &str, outcome: impl Show) {
        write_line(&format!("{}/{}.{what}: {}\n", self.section, self.case, outcome.show()));
    }

    /// Writes the line `section/case: outcome`, about the case as a whole.
    pub fn close(&self, outcome: &str) {
        write_line(&format!("{}/{}: {outcome}\n", self.section, self.case));
    }
}

/// Writes to standard output, past every buffer.
fn write_line(line: &str) {
    let mut rest = line.as_bytes();
    while let Ok(written) = sys!(write, 1, rest, rest.len()) {
        rest = &rest[written.min(rest.len())..];
        if rest.is_empty() {
            break;
        }
    }
}

/// Something that can stand as an outcome.
pub trait Show {
    /// The outcome in one line.
    fn show(&self) -> String;
}

/// The result without its value: `ok`, or the errno. For descriptors, addresses and process numbers.
pub fn ok(result: Res) -> Result<(), Errno> {
    result.map(drop)
}

impl<T: Show> Show for Result<T, Errno> {
    fn show(&self) -> String {
        match self {
            Ok(value) => value.show(),
            Err(errno) => errno_name(*errno),
        }
    }
}

impl<T: Show> Show for Option<T> {
    fn show(&self) -> String {
        self.as_ref().map_or_else(|| "none".to_owned(), T::show)
    }
}

impl Show for () {
    fn show(&self) -> String {
        "ok".to_owned()
    }
}

impl Show for bool {
    fn show(&self) -> String {
        if *self { "yes" } else { "no" }.to_owned()
    }
}

macro_rules! show_as_display {
    ($($t:ty),*) => {$(
        impl Show for $t {
            fn show(&self) -> String {
                self.to_string()
            }
        }
    )*};
}
show_as_display!(i16, i32, i64, u8, u16, u32, u64, usize, isize, str, String, Ended);

impl<T: Show + ?Sized> Show for &T {
    fn show(&self) -> String {
        (**self).show()
    }
}

impl<T: Show> Show for Vec<T> {
    fn show(&self) -> String {
        let items: Vec<String> = self.iter().map(T::show).collect();
        format!("[{}]", items.join(" "))
    }
}

macro_rules! show_tuple {
    ($($name:ident)*) => {
        impl<$($name: Show),*> Show for ($($name,)*) {
            #[allow(non_snake_case, reason = "the type parameters name the fields")]
            fn show(&self) -> String {
                let ($($name,)*) = self;
                [$($name.show()),*].join(", ")
            }
        }
    };
}
show_tuple!(A B);
show_tuple!(A B C);
show_tuple!(A B C D);
show_tuple!(A B C D E);
show_tuple!(A B C D E F);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_values_and_errno_names() {
        let outcome: (Res, Result<(), Errno>, bool) = (Ok(3), Err(Errno::ENOENT), true);
        assert_eq!(outcome.show(), "3, ENOENT, yes");
        assert_eq!(ok(Ok(7)).show(), "ok");
    }

    #[test]
    fn lists_and_options_stay_on_one_line() {
        assert_eq!(vec![1, 2].show(), "[1 2]");
        assert_eq!(Some("x").show(), "x");
        assert_eq!(None::<i32>.show(), "none");
    }
}
