package report

import (
	"bufio"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"
)

// Machine is where a report was taken.
type Machine struct {
	CPU        string            `json:"cpu"`
	CPUs       int               `json:"cpus"`
	Kernel     string            `json:"kernel"`
	OS         string            `json:"os"`
	Go         string            `json:"go"`
	Sluice     string            `json:"sluice"`
	Virtual    bool              `json:"virtual"` // a hypervisor: absolute times say little
	Interfaces map[string]string `json:"interfaces,omitempty"`
	Peers      map[string]string `json:"peers,omitempty"` // version by name
}

// ThisMachine describes the machine it runs on.
func ThisMachine() Machine {
	m := Machine{CPUs: runtime.NumCPU(), Go: runtime.Version(), Sluice: "development", Peers: map[string]string{}}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	m.CPU = field("/proc/cpuinfo", "model name", ":")
	m.Virtual = strings.Contains(field("/proc/cpuinfo", "flags", ":"), "hypervisor")
	m.OS = strings.Trim(field("/etc/os-release", "PRETTY_NAME", "="), `"`)
	if b, ok := debug.ReadBuildInfo(); ok {
		for _, s := range b.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				m.Sluice = s.Value[:12]
			}
		}
	}
	for _, p := range []string{"rtpengine-daemon", "kamailio", "sip-tester"} {
		out, err := exec.Command("dpkg-query", "-W", "-f", "${Status} ${Version}", p).Output()
		if v, ok := strings.CutPrefix(string(out), "install ok installed "); err == nil && ok {
			m.Peers[p] = v
		}
	}
	return m
}

// field returns the value of the first line of the file that starts with name.
func field(path, name, sep string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if k, v, ok := strings.Cut(s.Text(), sep); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
