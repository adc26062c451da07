//! What the command line says: positional arguments, `--in-guest`, `--limit N`.

use user_sys::sys;

/// The arguments of a subcommand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// What is not an option, in order.
    pub positional: Vec<String>,
    /// Nothing outside this machine can be harmed: no limits, and every call that does not end the guest by
    /// design.
    pub in_guest: bool,
    /// Mebibytes for `eatmem`, processes for `forkbomb`.
    pub limit: Option<usize>,
}

impl Options {
    /// Reads the arguments that follow the subcommand.
    pub fn parse(args: &[String]) -> Result<Self, String> {
        let mut options = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--in-guest" => options.in_guest = true,
                "--limit" => options.limit = Some(number(args.next().ok_or("--limit needs a number")?)?),
                option if option.starts_with("--") => return Err(format!("unknown option {option}")),
                _ => options.positional.push(arg.clone()),
            }
        }
        Ok(options)
    }

    /// The number at this place, or the default when there are fewer arguments.
    pub fn number(&self, place: usize, default: usize) -> Result<usize, String> {
        self.positional.get(place).map_or(Ok(default), |text| number(text))
    }

    /// The text at this place; an error that names it when there are fewer arguments.
    pub fn text(&self, place: usize, name: &str) -> Result<&str, String> {
        self.positional.get(place).map(String::as_str).ok_or_else(|| format!("{name} is missing"))
    }

    /// Refuses to go on as root outside a guest: for subcommands that make calls at random.
    pub fn refuse_root_on_host(&self) -> Result<(), String> {
        match !self.in_guest && sys!(geteuid) == Ok(0) {
            true => Err("run as an ordinary user, or in a guest with --in-guest".to_owned()),
            false => Ok(()),
        }
    }
}

fn number(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("{text} is not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Options, String> {
        Options::parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn options_may_stand_anywhere() {
        let options = parse("7 --limit 20 9 --in-guest").unwrap();
        assert_eq!(options.positional, ["7", "9"]);
        assert_eq!((options.limit, options.in_guest), (Some(20), true));
        assert_eq!((options.number(1, 0), options.number(2, 5)), (Ok(9), Ok(5)));
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(parse("--limit"), Err("--limit needs a number".to_owned()));
        assert_eq!(parse("--limit many"), Err("many is not a number".to_owned()));
        assert_eq!(parse("--unknown"), Err("unknown option --unknown".to_owned()));
        assert_eq!(parse("").unwrap().text(0, "PORT"), Err("PORT is missing".to_owned()));
    }
}
