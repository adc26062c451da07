//! Path walking: from names to nodes (path_resolution(7)).
//!
//! A [`Walker`] consumes a path component by component. Text of symbolic links that it meets goes on a stack in front of what is left, so
//! nothing is copied and nothing recurses; a path without links allocates nothing.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use super::node::{NAME_MAX, PATH_MAX, Target};
use super::{FileType, Identity, Location, Node, Wanted};
use crate::errno::Errno;

/// Most symbolic links followed in one walk.
const LINKS_MAX: u32 = 40;

bitflags::bitflags! {
    /// What a walk must not do: the `resolve` flags of openat2(2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Rules: u64 {
        /// Cross a mount: `EXDEV`.
        const NO_XDEV = 1;
        /// Follow the links of /proc that lead straight to a file: `ELOOP`.
        const NO_MAGICLINKS = 2;
        /// Follow symbolic links: `ELOOP`.
        const NO_SYMLINKS = 4;
        /// Leave the directory where it begins: `EXDEV`.
        const BENEATH = 8;
        /// See anything above the directory where it begins, which is its root.
        const IN_ROOT = 16;
        /// Wait for a device: there is none.
        const CACHED = 32;
    }
}

/// Who walks, and within which root.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// In whose name directories are searched.
    pub who: Identity<'a>,
    /// Where absolute paths begin, and above which `..` does not go.
    pub root: &'a Location,
}

/// A component of the path, in the caller's text or in that of a link.
pub enum Component<'p> {
    /// Of the path itself.
    Given(&'p [u8]),
    /// Of the text of a symbolic link.
    Linked(Arc<[u8]>, Range<usize>),
}

impl Component<'_> {
    /// The name.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Given(name) => name,
            Self::Linked(text, range) => &text[range.clone()],
        }
    }
}

/// What the end of a path names, in the directory where the walk stands.
pub enum Last<'p> {
    /// The place itself: the path was `/`, or led there through a link.
    Root,
    /// The place itself: the path ended in `.`.
    Here,
    /// The path ended in `..`; the walk stands in the directory before it.
    Parent,
    /// An entry, which need not be there.
    Name(Component<'p>),
}

/// A walk along a path.
pub struct Walker<'a, 'p> {
    view: View<'a>,
    at: Location,
    given: &'p [u8],
    /// Texts of links, the innermost last, and how far each is consumed.
    links: Vec<(Arc<[u8]>, usize)>,
    followed: u32,
    trailing_slash: bool,
    rules: Rules,
    /// Where it began, if it must not go above that (`BENEATH`).
    floor: Option<Location>,
}

impl<'a, 'p> Walker<'a, 'p> {
    /// A walk along `path`, from `start` unless the path is absolute.
    ///
    /// # Errors
    /// `ENOENT` for an empty path; `ENAMETOOLONG`.
    pub fn new(view: View<'a>, start: &Location, path: &'p [u8]) -> Result<Self, Errno> {
        if path.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let at = match path.first() {
            None => return Err(Errno::ENOENT),
            Some(b'/') => view.root.clone(),
            Some(_) => start.clone(),
        };
        let given = trim(path);
        let trailing_slash = given.len() < path.len() && !given.is_empty();
        let rules = Rules::empty();
        Ok(Self { view, at, given, links: Vec::new(), followed: 0, trailing_slash, rules, floor: None })
    }

    /// A walk that keeps to `rules`. For `IN_ROOT` the caller gives a view whose root is `start`.
    ///
    /// # Errors
    /// As [`new`](Self::new); `EXDEV` for an absolute path with `BENEATH`.
    pub fn with_rules(view: View<'a>, start: &Location, path: &'p [u8], rules: Rules) -> Result<Self, Errno> {
        let beneath = rules.contains(Rules::BENEATH);
        if beneath && path.starts_with(b"/") {
            return Err(Errno::EXDEV);
        }
        Ok(Self { rules, floor: beneath.then(|| start.clone()), ..Self::new(view, start, path)? })
    }

    /// Where the walk stands.
    pub fn at(&self) -> &Location {
        &self.at
    }

    /// Where the walk ended.
    pub fn into_place(self) -> Location {
        self.at
    }

    /// Whether the path ends in a slash: the last component must be a directory, and a link there is followed.
    pub fn has_trailing_slash(&self) -> bool {
        self.trailing_slash
    }

    /// Goes on to the directory that holds what the path names.
    pub fn walk_to_last(&mut self) -> Result<Last<'p>, Errno> {
        while let Some(component) = self.next() {
            let is_last = self.given.is_empty() && self.links.is_empty();
            match component.bytes() {
                b"." => {
                    self.search()?;
                    if is_last {
                        return Ok(Last::Here);
                    }
                }
                b".." if is_last => {
                    self.search()?;
                    return Ok(Last::Parent);
                }
                b".." => {
                    self.search()?;
                    self.go_up()?;
                }
                _ if is_last => return Ok(Last::Name(component)),
                name => {
                    let node = self.lookup(name)?;
                    self.step(node, true)?;
                }
            }
        }
        Ok(Last::Root)
    }

    /// The entry `name` of the directory where the walk stands.
    pub fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Node>, Errno> {
        check_name(name)?;
        self.at.node.lookup(&self.view.who, name)
    }

    /// Goes to `node`, an entry of the directory where the walk stands. A symbolic link with `follow` is
    /// unfolded instead: true is returned if the walk has to go on.
    pub fn step(&mut self, node: Arc<dyn Node>, follow: bool) -> Result<bool, Errno> {
        if follow && node.file_type() == FileType::Symlink {
            return self.follow(&node);
        }
        self.at.node = node;
        self.enter_mounts()?;
        Ok(false)
    }

    fn enter_mounts(&mut self) -> Result<(), Errno> {
        if !self.rules.contains(Rules::NO_XDEV) {
            self.at.enter_mounts();
            return Ok(());
        }
        let mut inside = self.at.clone();
        inside.enter_mounts();
        if Arc::ptr_eq(&inside.mount, &self.at.mount) { Ok(()) } else { Err(Errno::EXDEV) }
    }

    fn follow(&mut self, link: &Arc<dyn Node>) -> Result<bool, Errno> {
        self.followed += 1;
        if self.followed > LINKS_MAX || self.rules.contains(Rules::NO_SYMLINKS) {
            return Err(Errno::ELOOP);
        }
        match link.target()? {
            Target::Place(_) if self.rules.contains(Rules::NO_MAGICLINKS) => Err(Errno::ELOOP),
            Target::Place(_) if self.rules.intersects(Rules::BENEATH | Rules::IN_ROOT) => Err(Errno::EXDEV),
            Target::Place(place) => {
                if self.rules.contains(Rules::NO_XDEV) && !Arc::ptr_eq(&place.mount, &self.at.mount) {
                    return Err(Errno::EXDEV);
                }
                self.at = place;
                Ok(false)
            }
            Target::Path(text) => {
                if text.is_empty() {
                    return Err(Errno::ENOENT);
                }
                if text[0] == b'/' {
                    let leaves = !Arc::ptr_eq(&self.view.root.mount, &self.at.mount);
                    if self.floor.is_some() || (leaves && self.rules.contains(Rules::NO_XDEV)) {
                        return Err(Errno::EXDEV);
                    }
                    self.at = self.view.root.clone();
                }
                let ends_walk = self.given.is_empty() && self.links.is_empty();
                self.trailing_slash |= ends_walk && text.ends_with(b"/");
                self.links.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                self.links.push((text, 0));
                Ok(true)
            }
        }
    }

    /// Goes to the directory above, but not above the root.
    pub fn go_up(&mut self) -> Result<(), Errno> {
        if self.floor.as_ref().is_some_and(|floor| self.at.is(floor)) {
            return Err(Errno::EXDEV);
        }
        while !self.at.is(self.view.root) {
            if !self.at.is_mount_root() {
                let (parent, _) = self.at.node.place().ok_or(Errno::ENOENT)?;
                self.at.node = parent;
                return self.enter_mounts();
            }
            match self.at.mount_point().cloned() {
                Some(_) if self.rules.contains(Rules::NO_XDEV) => return Err(Errno::EXDEV),
                Some(point) => self.at = point,
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// `ENOTDIR` or `EACCES` unless this is a directory that may be searched.
    fn search(&self) -> Result<(), Errno> {
        if self.at.node.file_type() != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        self.at.node.check(&self.view.who, Wanted::EXECUTE)
    }

    /// The next component; none when all texts are consumed.
    fn next(&mut self) -> Option<Component<'p>> {
        while let Some((text, from)) = self.links.last_mut() {
            let start = *from + text[*from..].iter().take_while(|&&byte| byte == b'/').count();
            let len = text[start..].iter().take_while(|&&byte| byte != b'/').count();
            if len == 0 {
                self.links.pop();
                continue;
            }
            let text = text.clone();
            let end = start + len;
            *from = end;
            // Drop the text as soon as only slashes are left, so that "the last component" is easily seen.
            if text[end..].iter().all(|&byte| byte == b'/') {
                self.links.pop();
            }
            return Some(Component::Linked(text, start..end));
        }
        let rest = &self.given[self.given.iter().take_while(|&&byte| byte == b'/').count()..];
        let len = rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
        let (name, rest) = rest.split_at(len);
        self.given = rest;
        (!name.is_empty()).then_some(Component::Given(name))
    }
}

/// `ENAMETOOLONG` for a name that no directory can hold.
pub fn check_name(name: &[u8]) -> Result<(), Errno> {
    if name.len() > NAME_MAX { Err(Errno::ENAMETOOLONG) } else { Ok(()) }
}

/// Without the slashes at the end.
fn trim(path: &[u8]) -> &[u8] {
    &path[..path.iter().rposition(|&byte| byte != b'/').map_or(0, |last| last + 1)]
}

/// The place that `path` names, seen from `start`; a symbolic link at the end is followed with `follow`.
pub fn resolve(view: View<'_>, start: &Location, path: &[u8], follow: bool) -> Result<Location, Errno> {
    resolve_with(view, start, path, follow, Rules::empty())
}

/// As [`resolve`], keeping to `rules`.
pub fn resolve_with(
    view: View<'_>,
    start: &Location,
    path: &[u8],
    follow: bool,
    rules: Rules,
) -> Result<Location, Errno> {
    let mut walker = Walker::with_rules(view, start, path, rules)?;
    loop {
        match walker.walk_to_last()? {
            Last::Root | Last::Here => break,
            Last::Parent => {
                walker.go_up()?;
                break;
            }
            Last::Name(name) => {
                let node = walker.lookup(name.bytes())?;
                if !walker.step(node, follow || walker.trailing_slash)? {
                    break;
                }
            }
        }
    }
    if walker.trailing_slash && walker.at.node.file_type() != FileType::Directory {
        return Err(Errno::ENOTDIR);
    }
    Ok(walker.at)
}

/// The directory that holds what `path` names, and how: for calls that make, remove or rename an entry. True: the path ends in a slash.
pub fn resolve_parent<'p>(
    view: View<'_>,
    start: &Location,
    path: &'p [u8],
) -> Result<(Location, Last<'p>, bool), Errno> {
    let mut walker = Walker::new(view, start, path)?;
    let last = walker.walk_to_last()?;
    if let Last::Name(_) = last {
        walker.search()?;
    }
    Ok((walker.at, last, walker.trailing_slash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::fixture::Fixture;
    use crate::fs::mount::{self, MountFlags};
    use alloc::string::String;

    #[test]
    fn forty_links_are_followed_and_not_one_more() {
        let tree = Fixture::new();
        tree.mkdir("/end");
        tree.symlink("/1", "end");
        for n in 2..=41 {
            tree.symlink(&format!("/{n}"), &format!("/{}", n - 1));
        }
        assert!(tree.find("/40").is_ok());
        assert_eq!(tree.find("/41").err(), Some(Errno::ELOOP));
        tree.symlink("/loop", "loop/x");
        assert_eq!(tree.find("/loop").err(), Some(Errno::ELOOP));
    }

    #[test]
    fn names_and_paths_have_their_limits() {
        let tree = Fixture::new();
        let name: String = "n".repeat(NAME_MAX);
        tree.mkdir(&name);
        assert!(tree.find(&name).is_ok());
        assert_eq!(tree.find(&format!("{name}n")).err(), Some(Errno::ENAMETOOLONG));
        assert_eq!(tree.find("").err(), Some(Errno::ENOENT));
        let slashes = "/".repeat(PATH_MAX - 1);
        assert!(tree.find(&slashes).is_ok());
        assert_eq!(tree.find(&format!("{slashes}/")).err(), Some(Errno::ENAMETOOLONG));
    }

    #[test]
    fn dot_dot_stays_inside_the_root() {
        let tree = Fixture::new();
        tree.mkdir("/jail");
        tree.mkdir("/jail/in");
        tree.symlink("/jail/out", "/../../jail");
        let jail = tree.find("/jail").unwrap();
        let view = View { who: Identity::ROOT, root: &jail };
        let inside = resolve(view, &jail, b"in/../../..", true).unwrap();
        assert!(inside.is(&jail));
        assert_eq!(resolve(view, &jail, b"out", true).err(), Some(Errno::ENOENT));
        assert!(tree.find("/jail/out/..").unwrap().is(&tree.root));
    }

    #[test]
    fn mounts_are_entered_and_left_on_the_way() {
        let tree = Fixture::new();
        tree.mkdir("/dir");
        tree.mkdir("/dir/mnt");
        tree.mkdir("/dir/mnt/hidden");
        let mount = tree.mount("/dir/mnt", MountFlags::empty());
        tree.mkdir("/dir/mnt/visible");
        assert_eq!(tree.find("/dir/mnt/hidden").err(), Some(Errno::ENOENT));
        let inside = tree.find("/dir/mnt/visible").unwrap();
        assert_eq!(inside.path(&tree.root), Ok(Some(b"/dir/mnt/visible".to_vec())));
        assert!(tree.find("/dir/mnt/visible/../..").unwrap().is(&tree.find("/dir").unwrap()));

        let root = tree.find("/dir/mnt").unwrap();
        assert_eq!(mount::unmount(&root, false), Err(Errno::EBUSY));
        drop((inside, mount));
        assert_eq!(mount::unmount(&tree.find("/dir").unwrap(), false), Err(Errno::EINVAL));
        assert_eq!(mount::unmount(&root, false), Ok(()));
        drop(root);
        assert!(tree.find("/dir/mnt/hidden").is_ok());
    }

    #[test]
    fn a_detached_mount_takes_along_what_is_mounted_in_it() {
        let tree = Fixture::new();
        tree.mkdir("/a");
        tree.mount("/a", MountFlags::empty());
        tree.mkdir("/a/b");
        tree.mount("/a/b", MountFlags::empty());
        let paths = || {
            let all = mount::list(&tree.root).unwrap();
            all.into_iter().map(|(path, _)| String::from_utf8(path).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(paths(), ["/", "/a", "/a/b"]);
        assert_eq!(mount::unmount(&tree.find("/a").unwrap(), false), Err(Errno::EBUSY));
        assert_eq!(mount::unmount(&tree.find("/a").unwrap(), true), Ok(()));
        assert_eq!(paths(), ["/"]);
        assert_eq!(tree.find("/a/b").err(), Some(Errno::ENOENT));
    }

    #[test]
    fn rules_keep_a_walk_where_it_may_be() {
        let tree = Fixture::new();
        tree.mkdir("/top");
        tree.mkdir("/top/dir");
        tree.mkdir("/top/mnt");
        tree.mount("/top/mnt", MountFlags::empty());
        tree.mkdir("/top/mnt/in");
        tree.symlink("/top/link", "dir");
        tree.symlink("/top/absolute", "/top/dir");
        tree.symlink("/top/up", "dir/../..");
        let top = tree.find("/top").unwrap();
        let walk = |path: &str, rules| {
            let root = if rules == Rules::IN_ROOT { &top } else { &tree.root };
            let view = View { who: Identity::ROOT, root };
            resolve_with(view, &top, path.as_bytes(), true, rules)
                .map(|found| found.path(&tree.root).unwrap())
        };
        let top_dir = || Ok(Some(b"/top/dir".to_vec()));
        assert_eq!(walk("link", Rules::BENEATH), top_dir());
        assert_eq!(walk("absolute", Rules::empty()), top_dir());
        for path in ["absolute", "up", "..", "dir/../..", "/top"] {
            assert_eq!(walk(path, Rules::BENEATH), Err(Errno::EXDEV), "{path}");
        }
        assert_eq!(walk("up", Rules::IN_ROOT), Ok(Some(b"/top".to_vec())));
        assert_eq!(walk("/dir", Rules::IN_ROOT), top_dir());
        assert_eq!(walk("absolute", Rules::IN_ROOT), Err(Errno::ENOENT));
        assert_eq!(walk("link", Rules::NO_SYMLINKS), Err(Errno::ELOOP));
        assert_eq!(walk("mnt/in", Rules::NO_XDEV), Err(Errno::EXDEV));
        assert_eq!(walk("dir", Rules::NO_XDEV | Rules::NO_SYMLINKS), top_dir());
    }

    #[test]
    fn places_outside_the_root_or_without_a_name_have_no_path() {
        let tree = Fixture::new();
        tree.mkdir("/jail");
        tree.mkdir("/other");
        let (jail, other) = (tree.find("/jail").unwrap(), tree.find("/other").unwrap());
        assert_eq!(other.path(&jail), Ok(None));
        assert_eq!(jail.path(&jail), Ok(Some(b"/".to_vec())));
        crate::fs::tree::rmdir(tree.view(), tree.at("/other")).unwrap();
        assert_eq!(other.display_path(&tree.root), Ok(b"/other (deleted)".to_vec()));
    }

    #[test]
    fn a_directory_that_may_not_be_searched_hides_what_is_below() {
        let tree = Fixture::new();
        tree.mkdir("/closed");
        tree.mkdir("/closed/in");
        let change = crate::fs::Change { mode: Some(0o644), ..Default::default() };
        tree.find("/closed").unwrap().node.change(&Identity::ROOT, &change).unwrap();
        let user = Identity { uid: 1, gid: 1, groups: &[], privileged: false };
        let find = |path: &[u8]| resolve(tree.view_of(user), &tree.root, path, true).err();
        assert_eq!(find(b"/closed/in"), Some(Errno::EACCES));
        assert_eq!(find(b"/closed/."), Some(Errno::EACCES));
        assert_eq!(find(b"/closed"), None);
    }
}
