//! Counts added up: by function, by stack, by side.

use std::collections::HashMap;
use std::fmt::Write;

use super::plugin::Count;
use super::symbols::{Names, Side, side};

/// Below all of the kernel's functions.
const KERNEL: &str = "kernel";
/// Below all of a program's.
const USER: &str = "user mode";
/// Functions of programs that are too small for a box each.
const SMALL: &str = "smaller functions";

/// One profile, with names.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Instructions by stack, the outermost function first.
    stacks: HashMap<Vec<String>, u64>,
    kernel: u64,
    user: u64,
}

impl Tally {
    /// Adds up the counts of one profile.
    pub fn new(counts: &[Count], profile: usize, names: &Names) -> Self {
        let mut tally = Self::default();
        for count in counts.iter().filter(|count| count.profile == profile) {
            tally.add(count, names);
        }
        tally
    }

    fn add(&mut self, count: &Count, names: &Names) {
        let name = names.name(count.address);
        let stack = match side(count.address) {
            Side::User => {
                self.user += count.instructions;
                vec![USER.to_string(), name]
            }
            Side::Kernel => {
                self.kernel += count.instructions;
                let mut stack = vec![KERNEL.to_string()];
                stack.extend(count.stack.iter().map(|entry| names.name(*entry)));
                // A jump led from the function that was called into another, or an interrupt did.
                if stack.last() != Some(&name) {
                    stack.push(name);
                }
                stack
            }
        };
        *self.stacks.entry(stack).or_default() += count.instructions;
    }

    /// One that has these stacks; each begins with its side.
    #[cfg(test)]
    pub(super) fn of_stacks(stacks: impl IntoIterator<Item = (Vec<String>, u64)>) -> Self {
        let mut tally = Self { stacks: stacks.into_iter().collect(), ..Self::default() };
        for (stack, instructions) in &tally.stacks {
            if stack[0] == KERNEL { tally.kernel += instructions } else { tally.user += instructions }
        }
        tally
    }

    /// All instructions.
    pub fn total(&self) -> u64 {
        self.kernel + self.user
    }

    /// Those of the kernel.
    pub fn kernel(&self) -> u64 {
        self.kernel
    }

    /// Those of programs.
    pub fn user(&self) -> u64 {
        self.user
    }

    /// Instructions by function, most first; those that it calls are not in them.
    pub fn functions(&self) -> Vec<(&str, u64)> {
        let mut sums = HashMap::<&str, u64>::new();
        for (stack, instructions) in &self.stacks {
            *sums.entry(stack.last().map_or("", String::as_str)).or_default() += instructions;
        }
        let mut functions: Vec<_> = sums.into_iter().collect();
        functions.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        functions
    }

    fn share(&self, part: u64) -> f64 {
        100.0 * part as f64 / self.total().max(1) as f64
    }

    /// The totals, divided by `per`, in a line.
    pub fn summary(&self, per: u64) -> String {
        let each = |part: u64| number(part as f64 / per as f64);
        format!(
            "{} instructions{}: {} in the kernel ({:.0} %), {} in user mode ({:.0} %)",
            each(self.total()),
            if per == 1 { String::new() } else { format!(", each of {}", number(per as f64)) },
            each(self.kernel),
            self.share(self.kernel),
            each(self.user),
            self.share(self.user)
        )
    }

    /// The same, where functions of programs with less than `least` per cent are one.
    pub fn with_small_ones_merged(&self, least: f64) -> Self {
        let mut merged = Self { stacks: HashMap::new(), ..*self };
        for (stack, instructions) in &self.stacks {
            let mut stack = stack.clone();
            if let [side, name] = &mut stack[..]
                && side == USER
                && self.share(*instructions) < least
            {
                *name = SMALL.to_string();
            }
            *merged.stacks.entry(stack).or_default() += instructions;
        }
        merged
    }

    /// Totals and the `top` functions, divided by `per`.
    pub fn table(&self, per: u64, top: usize) -> String {
        let share = |part| self.share(part);
        let each = |part: u64| number(part as f64 / per as f64);
        let mut text = self.summary(per) + "\n";
        let functions = self.functions();
        for (name, instructions) in functions.iter().take(top) {
            let _ = writeln!(text, "{:>16} {:5.1} %  {name}", each(*instructions), share(*instructions));
        }
        if let Some(rest) = functions.get(top..).filter(|rest| !rest.is_empty()) {
            let sum = rest.iter().map(|(_, instructions)| instructions).sum();
            let _ = writeln!(text, "{:>16} {:5.1} %  {} more functions", each(sum), share(sum), rest.len());
        }
        text
    }

    /// The stacks, a line each: functions, named by `name`, separated by semicolons, and the instructions divided by `per`.
    pub fn folded(&self, per: u64, name: impl Fn(&str) -> String) -> String {
        let line = |stack: &[String], instructions| {
            let names: Vec<String> = stack.iter().map(|function| name(function)).collect();
            format!("{} {}\n", names.join(";").replace(' ', "\u{a0}"), instructions / per)
        };
        let counted = self.stacks.iter().filter(|(_, instructions)| **instructions >= per);
        let mut lines: Vec<String> = counted.map(|(stack, instructions)| line(stack, instructions)).collect();
        lines.sort_unstable();
        lines.concat()
    }
}

/// A number with groups of three digits, and one decimal where that says something.
fn number(value: f64) -> String {
    let decimals = if value < 1000.0 { 1 } else { 0 };
    let text = format!("{value:.decimals$}");
    let (whole, rest) = text.split_once('.').map_or((text.as_str(), ""), |(whole, rest)| (whole, rest));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if rest.is_empty() || rest == "0" { grouped } else { format!("{grouped}.{rest}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(
            [0.0, 12.34, 999.0, 1000.4, 1_234_567.0].map(number),
            ["0", "12.3", "999", "1,000", "1,234,567"]
        );
    }

    fn tally() -> Tally {
        let stack = |names: &[&str]| names.iter().map(|name| (*name).to_string()).collect();
        Tally::of_stacks([
            (stack(&["kernel", "run", "read"]), 600),
            (stack(&["kernel", "poll", "read"]), 200),
            (stack(&["kernel", "run"]), 150),
            (stack(&["user mode", "prog"]), 50),
        ])
    }

    #[test]
    fn a_function_has_what_it_executed_itself_whoever_called_it() {
        assert_eq!(tally().functions(), [("read", 800), ("run", 150), ("prog", 50)]);
    }

    #[test]
    fn the_table_divides_and_sums_up_the_rest() {
        let table = tally().table(10, 1);
        assert!(
            table
                .starts_with("100 instructions, each of 10: 95 in the kernel (95 %), 5 in user mode (5 %)\n"),
            "{table}"
        );
        assert!(
            table.contains("80  80.0 %  read\n") && table.contains("20  20.0 %  2 more functions\n"),
            "{table}"
        );
    }

    #[test]
    fn small_functions_of_programs_are_merged() {
        let stack = |names: &[&str]| names.iter().map(|name| (*name).to_string()).collect();
        let tally = Tally::of_stacks([
            (stack(&["kernel", "tiny"]), 1),
            (stack(&["user mode", "large"]), 90),
            (stack(&["user mode", "small"]), 5),
            (stack(&["user mode", "smaller"]), 4),
        ]);
        let merged = tally.with_small_ones_merged(6.0);
        assert_eq!(merged.functions(), [("large", 90), ("smaller functions", 9), ("tiny", 1)]);
        assert_eq!((merged.kernel(), merged.user()), (1, 99));
    }

    #[test]
    fn folded_stacks_are_lines_without_blanks_in_names() {
        assert_eq!(
            tally().folded(100, str::to_string),
            "kernel;poll;read 2\nkernel;run 1\nkernel;run;read 6\n"
        );
        assert!(tally().folded(1, str::to_uppercase).contains("USER\u{a0}MODE;PROG 50\n"));
    }
}
