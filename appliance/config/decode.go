package config

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// decoder reads a YAML document into a Config. go-yaml's own decoder stops at
// the first fault; this one notes it and goes on, and keeps where every key
// stood for the checks that follow.
type decoder struct {
	file       string
	problems   Problems
	at         map[string]*token.Position // by key, e.g. "users[0].name"
	items      int
	unreadable bool // not YAML at all: nothing more can be said
}

func decode(file string, b []byte, c *Config) *decoder {
	d := &decoder{file: file, at: map[string]*token.Position{}}
	if len(b) > maxBytes {
		d.unreadable = true
		d.problems = Problems{{File: file, What: fmt.Sprintf("larger than %d MiB", maxBytes>>20)}}
		return d
	}
	f, err := parser.ParseBytes(b, 0)
	if err != nil {
		d.unreadable = true
		d.problems = Problems{d.syntax(err)}
		return d
	}
	if len(f.Docs) > 1 {
		d.problem(f.Docs[1].GetToken(), "", "a second document: everything belongs into one")
	}
	for _, doc := range f.Docs[:min(1, len(f.Docs))] {
		if doc.Body != nil && doc.Body.Type() != ast.CommentType {
			d.value("", doc.Body, reflect.ValueOf(c).Elem(), 0)
		}
	}
	return d
}

// syntax turns the parser's error, which draws an excerpt, into one line.
func (d *decoder) syntax(err error) Problem {
	p := Problem{File: d.file, What: "not YAML: " + err.Error()}
	if e, ok := errors.AsType[yaml.Error](err); ok {
		p.What = "not YAML: " + e.GetMessage()
		if t := e.GetToken(); t != nil {
			p.Line, p.Column = t.Position.Line, t.Position.Column
		}
	}
	return p
}

func (d *decoder) problem(t *token.Token, key, format string, args ...any) {
	p := Problem{File: d.file, Key: key, What: fmt.Sprintf(format, args...)}
	if t != nil && t.Position != nil {
		p.Line, p.Column = t.Position.Line, t.Position.Column
	}
	d.problems = append(d.problems, p)
}

// wrong notes what the checks found about a key. A key that is not in the file
// is reported where its nearest parent stands.
func (d *decoder) wrong(key, format string, args ...any) {
	p := Problem{File: d.file, Key: key, What: fmt.Sprintf(format, args...)}
	for k := key; k != ""; k = k[:max(0, strings.LastIndexAny(k, ".["))] {
		if pos := d.at[k]; pos != nil {
			p.Line, p.Column = pos.Line, pos.Column
			break
		}
	}
	d.problems = append(d.problems, p)
}

func (d *decoder) value(key string, n ast.Node, v reflect.Value, depth int) {
	d.items++
	if depth > maxDepth || d.items > maxItems {
		if !d.unreadable {
			d.problem(n.GetToken(), key, "too much: at most %d values, %d deep", maxItems, maxDepth)
		}
		d.unreadable = true
		return
	}
	switch n := n.(type) {
	case *ast.NullNode:
		return // a key without value keeps its default
	case *ast.TagNode:
		d.problem(n.GetToken(), key, "a YAML tag: leave it out")
		return
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode:
		d.problem(n.GetToken(), key, "YAML anchors and aliases are not read: write it out")
		return
	}
	if _, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		d.scalar(key, n, v)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.mapping(key, n, v, depth)
	case reflect.Slice:
		d.sequence(key, n, v, depth)
	default:
		d.scalar(key, n, v)
	}
}

func (d *decoder) mapping(key string, n ast.Node, v reflect.Value, depth int) {
	var pairs []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		pairs = n.Values
	case *ast.MappingValueNode:
		pairs = []*ast.MappingValueNode{n}
	default:
		d.problem(n.GetToken(), key, "want keys here (%s)", strings.Join(names(v.Type()), ", "))
		return
	}
	fields := names(v.Type())
	for _, pair := range pairs {
		name, t := pair.Key.String(), pair.Key.GetToken()
		if _, ok := pair.Key.(*ast.MergeKeyNode); ok {
			d.problem(t, key, "YAML anchors and aliases are not read: write it out")
			continue
		}
		if s, ok := pair.Key.(*ast.StringNode); ok {
			name = s.Value
		}
		sub := join(key, name)
		i := slices.Index(fields, name)
		if i < 0 {
			d.problem(t, sub, "no such key%s; known here: %s", suggestion(name, fields), strings.Join(fields, ", "))
			continue
		}
		d.at[sub] = t.Position
		d.value(sub, pair.Value, v.Field(i), depth+1)
	}
}

func (d *decoder) sequence(key string, n ast.Node, v reflect.Value, depth int) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		// One address needs no brackets.
		if _, isText := reflect.New(v.Type().Elem()).Interface().(encoding.TextUnmarshaler); isText {
			if _, isScalar := n.(ast.ScalarNode); isScalar {
				v.Set(reflect.MakeSlice(v.Type(), 1, 1))
				d.value(key, n, v.Index(0), depth+1)
				return
			}
		}
		d.problem(n.GetToken(), key, "want a list")
		return
	}
	if len(seq.Values) > maxItems {
		d.problem(n.GetToken(), key, "too much: at most %d values", maxItems)
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values)))
	for i, e := range seq.Values {
		sub := key + "[" + strconv.Itoa(i) + "]"
		d.at[sub] = e.GetToken().Position
		d.value(sub, e, v.Index(i), depth+1)
	}
}

func (d *decoder) scalar(key string, n ast.Node, v reflect.Value) {
	text, ok := scalarText(n)
	if !ok {
		d.problem(n.GetToken(), key, "want a single value")
		return
	}
	if err := set(v, n, text); err != nil {
		d.problem(n.GetToken(), key, "%v", err)
	}
}

// scalarText is a value as it was written: password: 0123 keeps its zero.
func scalarText(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case ast.ScalarNode:
		return n.GetToken().Value, true
	}
	return "", false
}

func set(v reflect.Value, n ast.Node, text string) error {
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(text))
	}
	switch x := v.Addr().Interface().(type) {
	case *string:
		*x = text
	case *bool:
		b, ok := n.(*ast.BoolNode)
		if !ok {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		*x = b.Value
	case *int:
		i, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("%q is no whole number", text)
		}
		*x = i
	case *time.Duration:
		t, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%q is no duration: write for example 500ms, 30s or 3m", text)
		}
		*x = t
	default:
		return fmt.Errorf("cannot be read into %s", v.Type())
	}
	return nil
}

// names are a struct's keys in the order of its fields.
func names(t reflect.Type) []string {
	s := make([]string, t.NumField())
	for i := range s {
		s[i] = t.Field(i).Tag.Get("yaml")
	}
	return s
}

func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

// suggestion names the known key that a misspelt one is nearest to.
func suggestion(name string, known []string) string {
	best, at := 3, ""
	for _, k := range known {
		if e := edits(name, k); e < best && e < len(k) {
			best, at = e, k
		}
	}
	if at == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %s?)", at)
}

// edits is the Levenshtein distance, given up beyond 64 bytes.
func edits(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
