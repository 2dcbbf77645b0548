package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	bpffsRoot     = "/sys/fs/bpf"
	defaultPinDir = bpffsRoot + "/sluice"
	layoutPrefix  = "layout_"
	tempPrefix    = "new_"
	asidePrefix   = "aside_"
)

// directory is the pin directory: layout_N holds the maps, programs and links
// of layout N and appears whole, by rename. Its lock, held for the life of the
// engine, keeps a second daemon out; the kernel lets go of it on any death.
type directory struct {
	path string
	lock *os.File
}

func openDirectory(path string) (*directory, error) {
	if path == "" {
		path = defaultPinDir
	}
	path = filepath.Clean(path)
	if err := ensureBPFFS(path); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("create the pin directory: %w", err)
	}
	lock, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("open the pin directory: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s is in use by another running gateway: stop it, or set another pin directory", path)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	d := &directory{path: path, lock: lock}
	if err := d.sweep(); err != nil {
		lock.Close()
		return nil, err
	}
	return d, nil
}

func (d *directory) close() { d.lock.Close() }

// ensureBPFFS sees to it that path lies on a bpf filesystem. It mounts one at
// the customary place when that is where path lies and none is there.
func ensureBPFFS(path string) error {
	for at := path; ; at = filepath.Dir(at) {
		var fs unix.Statfs_t
		err := unix.Statfs(at, &fs)
		if err == nil {
			if fs.Type == unix.BPF_FS_MAGIC {
				return nil
			}
			break
		}
		if !errors.Is(err, unix.ENOENT) || at == "/" {
			return fmt.Errorf("look at %s: %w", at, err)
		}
	}
	if path != bpffsRoot && !strings.HasPrefix(path, bpffsRoot+"/") {
		return fmt.Errorf("%s is not on a bpf filesystem: mount one there (mount -t bpf bpf DIR) or use %s", path, defaultPinDir)
	}
	if err := unix.Mount("bpf", bpffsRoot, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("mount a bpf filesystem on %s: %w (mount it before the start: mount -t bpf bpf %s)", bpffsRoot, err, bpffsRoot)
	}
	return nil
}

// sweep removes what a start that died half-way left. No link is ever pinned
// under a temporary name, so nothing attached is lost.
func (d *directory) sweep() error {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return fmt.Errorf("read the pin directory: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tempPrefix) {
			if err := os.RemoveAll(filepath.Join(d.path, e.Name())); err != nil {
				return fmt.Errorf("remove the rest of an unfinished start: %w", err)
			}
		}
	}
	return nil
}

// others lists the directories of layouts that are not this one.
func (d *directory) others(version uint32) ([]string, error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, fmt.Errorf("read the pin directory: %w", err)
	}
	var found []string
	for _, e := range entries {
		path := filepath.Join(d.path, e.Name())
		if path != d.layout(version) && (strings.HasPrefix(e.Name(), layoutPrefix) || strings.HasPrefix(e.Name(), asidePrefix)) {
			found = append(found, path)
		}
	}
	return found, nil
}

func (d *directory) layout(version uint32) string {
	return filepath.Join(d.path, layoutPrefix+strconv.FormatUint(uint64(version), 10))
}

// create makes layout_version with what fill pins, all or nothing.
func (d *directory) create(version uint32, fill func(dir string) error) error {
	temp, err := os.MkdirTemp(d.path, tempPrefix)
	if err != nil {
		return fmt.Errorf("create a layout directory: %w", err)
	}
	if err := fill(temp); err != nil {
		return errors.Join(err, os.RemoveAll(temp))
	}
	if err := os.Rename(temp, d.layout(version)); err != nil {
		return errors.Join(fmt.Errorf("put the layout in place: %w", err), os.RemoveAll(temp))
	}
	return nil
}

// setAside renames a layout that is not what its number says, so that its links
// are taken over like those of any other layout.
func (d *directory) setAside(version uint32) error {
	for n := 0; ; n++ {
		aside := filepath.Join(d.path, asidePrefix+strconv.Itoa(n))
		if _, err := os.Lstat(aside); err == nil {
			continue
		}
		if err := os.Rename(d.layout(version), aside); err != nil {
			return fmt.Errorf("set layout %d aside: %w", version, err)
		}
		return nil
	}
}

// discard removes a layout's directory that no link uses any more.
func (d *directory) discard(path string) error {
	if err := os.RemoveAll(path); err != nil {
		return fmt.Errorf("remove a replaced layout: %w", err)
	}
	return nil
}
