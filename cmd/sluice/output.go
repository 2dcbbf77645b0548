package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sluicegw/sluice/appliance/admin"
	"github.com/urfave/cli/v2"
)

// column of a listing for people.
type column[T any] struct {
	title string
	wide  bool // with -o wide only
	value func(T) string
}

// readFlags are what every verb that lists takes.
func readFlags() []cli.Flag {
	return append(showFlags(),
		&cli.BoolFlag{Name: "no-header", Usage: "leave out the table's titles"},
		&cli.StringSliceFlag{Name: "filter", Usage: "only where a JSON field has a value, as `KEY=VALUE`; may be repeated"},
		&cli.StringFlag{Name: "sort", Usage: "order by a JSON field `KEY`"},
	)
}

// showFlags are what every verb that reads takes.
func showFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "table", Usage: "`FORMAT`: table, wide, json or jsonl"},
		&cli.DurationFlag{Name: "watch", Usage: "show again every `DURATION`, until interrupted"},
		socketFlag(),
	}
}

func socketFlag() cli.Flag {
	return &cli.StringFlag{Name: "socket", EnvVars: []string{"SLUICE_SOCKET"}, Usage: "the gateway's admin `SOCKET`", DefaultText: admin.DefaultSocket()}
}

func client(c *cli.Context) *admin.Client {
	return admin.NewClient(cmp.Or(c.String("socket"), admin.DefaultSocket()))
}

// format checks -o.
func format(c *cli.Context) (string, error) {
	f := c.String("output")
	if !slices.Contains([]string{"table", "wide", "json", "jsonl"}, f) {
		return "", usage("-o %s: write table, wide, json or jsonl", f)
	}
	return f, nil
}

// watched runs show once, or again and again with --watch.
func watched(c *cli.Context, show func(context.Context) error) error {
	every := c.Duration("watch")
	if !c.IsSet("watch") {
		return show(c.Context)
	}
	if every < 100*time.Millisecond {
		return usage("--watch %s: write 100ms or more", every)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if err := show(c.Context); err != nil {
			return err
		}
		select {
		case <-tick.C:
			fmt.Fprintln(c.App.Writer)
		case <-c.Context.Done():
			return nil
		}
	}
}

// list is a verb that lists what ask returns.
func list[T any](usage, schema string, columns []column[T], ask func(context.Context, *admin.Client) (admin.List[T], error)) *cli.Command {
	return &cli.Command{
		Name: "list", Usage: usage, Flags: readFlags(), OnUsageError: usageError,
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			f, err := format(c)
			if err != nil {
				return err
			}
			return watched(c, func(ctx context.Context) error {
				l, err := ask(ctx, client(c))
				if err != nil {
					return err
				}
				items, err := choose(l.Items, c.StringSlice("filter"), c.String("sort"))
				if err != nil {
					return err
				}
				return print(c.App.Writer, f, c.Bool("no-header"), schema, columns, items)
			})
		},
	}
}

// choose filters and sorts by the fields that JSON output shows.
func choose[T any](items []T, filters []string, by string) ([]T, error) {
	type row struct {
		item   T
		fields map[string]any
	}
	rows := make([]row, 0, len(items))
next:
	for _, i := range items {
		b, err := json.Marshal(i)
		if err != nil {
			return nil, err
		}
		r := row{item: i}
		if err := json.Unmarshal(b, &r.fields); err != nil {
			return nil, err
		}
		for _, f := range filters {
			key, value, ok := strings.Cut(f, "=")
			if !ok {
				return nil, usage("--filter %s: write KEY=VALUE", f)
			}
			if fmt.Sprint(r.fields[key]) != value {
				continue next
			}
		}
		rows = append(rows, r)
	}
	if by != "" {
		slices.SortStableFunc(rows, func(a, b row) int {
			x, ok1 := a.fields[by].(float64)
			y, ok2 := b.fields[by].(float64)
			if ok1 && ok2 {
				return cmp.Compare(x, y)
			}
			return cmp.Compare(fmt.Sprint(a.fields[by]), fmt.Sprint(b.fields[by]))
		})
	}
	out := make([]T, len(rows))
	for i := range rows {
		out[i] = rows[i].item
	}
	return out, nil
}

func print[T any](w io.Writer, format string, bare bool, schema string, columns []column[T], items []T) error {
	switch format {
	case "json":
		return document(w, admin.List[T]{Schema: schema, Items: items})
	case "jsonl":
		e := json.NewEncoder(w)
		for _, i := range items {
			if err := e.Encode(i); err != nil {
				return err
			}
		}
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(cell func(column[T]) string) {
		var cells []string
		for _, c := range columns {
			if !c.wide || format == "wide" {
				cells = append(cells, cmp.Or(cell(c), "-"))
			}
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	if !bare {
		line(func(c column[T]) string { return c.title })
	}
	for _, i := range items {
		line(func(c column[T]) string { return c.value(i) })
	}
	return t.Flush()
}

func document(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// ago is a time as people say it.
func ago(t time.Time) string { return seconds(time.Since(t).Seconds()) + " ago" }

func seconds(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(time.Second).String()
}

// octets with a unit, three digits.
func octets(n uint64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	f, i := float64(n), 0
	for f >= 1000 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	return fmt.Sprintf("%.3g %s", f, units[i])
}
