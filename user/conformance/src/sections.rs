//! The sections: one file per family of calls, each a table of cases.

mod dirs;
mod epoll;
mod events;
mod exec;
mod faults;
mod fd;
mod files;
mod futex;
mod limits;
mod links;
mod listen;
mod mappings;
mod memory;
mod meta;
mod misc;
mod mounts;
mod pipes;
mod poll;
mod proc;
mod process;
mod signals;
mod sockopt;
mod tcp;
mod threads;
mod time;
mod timers;
mod transfer;
mod udp;
mod unix;

use crate::transcript::Section;

/// All sections, in the order in which they run.
pub const ALL: &[&Section] = &[
    &files::SECTION,
    &transfer::SECTION,
    &dirs::SECTION,
    &links::SECTION,
    &meta::SECTION,
    &mounts::SECTION,
    &fd::SECTION,
    &pipes::SECTION,
    &poll::SECTION,
    &epoll::SECTION,
    &events::SECTION,
    &process::SECTION,
    &exec::SECTION,
    &signals::SECTION,
    &faults::SECTION,
    &timers::SECTION,
    &limits::SECTION,
    &memory::SECTION,
    &mappings::SECTION,
    &threads::SECTION,
    &futex::SECTION,
    &time::SECTION,
    &tcp::SECTION,
    &listen::SECTION,
    &udp::SECTION,
    &unix::SECTION,
    &sockopt::SECTION,
    &proc::SECTION,
    &misc::SECTION,
];

/// The section of that name.
pub fn find(name: &str) -> Option<&'static Section> {
    ALL.iter().copied().find(|section| section.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_so_that_a_line_says_where_it_comes_from() {
        let mut seen = HashSet::new();
        for section in ALL {
            assert!(!section.cases.is_empty(), "{} has no cases", section.name);
            for (case, _) in section.cases {
                assert!(seen.insert((section.name, case)), "{}/{case} twice", section.name);
            }
        }
    }
}
