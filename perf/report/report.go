package report

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Schema is the version of the JSON form. It changes only when a field changes
// its meaning or goes away.
const Schema = 1

// Report is one run of the suite.
type Report struct {
	Schema    int       `json:"schema"`
	Started   time.Time `json:"started"`
	Command   string    `json:"command"`
	Machine   Machine   `json:"machine"`
	Results   []Result  `json:"results"`
	Cut       bool      `json:"cut,omitempty"`       // interrupted: what was measured by then is kept
	Generator []Figure  `json:"generator,omitempty"` // the generator's own ceiling
}

// Result is what one scenario measured.
type Result struct {
	Scenario string        `json:"scenario"`
	About    string        `json:"about"` // one sentence: what is measured and how
	Took     time.Duration `json:"took"`
	Figures  []Figure      `json:"figures"`
	Curves   []Curve       `json:"curves,omitempty"`
	Absent   []Absent      `json:"absent,omitempty"`
	Failed   string        `json:"failed,omitempty"`
	Again    string        `json:"again"` // the command that repeats it
}

// Curve is a plotted relation, e.g. cost against flows.
type Curve struct {
	Plot  string    `json:"plot"` // curves of one plot share it, e.g. "cost against flows"
	Name  string    `json:"name"`
	XName string    `json:"x_name"`
	YName string    `json:"y_name"`
	LogX  bool      `json:"log_x,omitempty"`
	X     []float64 `json:"x"`
	Y     []float64 `json:"y"`
}

// Absent is a peer or an ability that this machine lacks.
type Absent struct {
	What   string `json:"what"`
	Remedy string `json:"remedy"` // the command that installs it, or what is needed
}

// Write stores the report as dir/report.json and dir/report.html, whole or not
// at all.
func (r *Report) Write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := replace(filepath.Join(dir, "report.json"), append(data, '\n')); err != nil {
		return err
	}
	page, err := r.HTML()
	if err != nil {
		return err
	}
	return replace(filepath.Join(dir, "report.html"), page)
}

func replace(path string, data []byte) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// Read loads a report.json, or the one in a folder.
func Read(path string) (*Report, error) {
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		path = filepath.Join(path, "report.json")
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var r Report
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("%s is not a report: %w", path, err)
	}
	if r.Schema != Schema {
		return nil, fmt.Errorf("%s has schema %d, this program reads %d: take it again", path, r.Schema, Schema)
	}
	return &r, nil
}
