package rig

import (
	"context"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/sluicegw/sluice/dataplane/srtp"
	"github.com/sluicegw/sluice/internal/ring"
	"github.com/sluicegw/sluice/perf/traffic"
)

// The test binary is the engine's process when it is started as one.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "perf" && os.Args[2] == "engine" {
		if err := Serve(os.Stdin, os.Stdout, slog.New(slog.NewTextHandler(os.Stderr, nil))); err != nil {
			slog.Error("engine", "err", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// On every path each packet of every call comes out once, right, and on that path.
func TestEveryPath(t *testing.T) {
	ring.Needs(t, ring.Root)
	for _, spec := range []Spec{
		{Path: PathUser, Transform: SRTPtoRTP, Profile: srtp.ProfileAEADAES128GCM},
		{Path: PathUser, Transform: RTPtoRTP},
		{Path: PathNative, Transform: SRTPtoRTP, Profile: srtp.ProfileAEADAES128GCM},
		{Path: PathNative, Transform: SRTPtoRTP, Profile: srtp.ProfileAES128CMHMACSHA1_80, V6: true},
		{Path: PathNative, Transform: SRTPtoSRTP, Profile: srtp.ProfileAEADAES128GCM},
		{Path: PathGeneric, Transform: SRTPtoRTP, Profile: srtp.ProfileAEADAES128GCM},
		{Path: PathTC, Transform: SRTPtoRTP, Profile: srtp.ProfileAES128CMHMACSHA1_80},
		{Path: PathNative, Transform: RTPtoRTP},
	} {
		spec.Calls, spec.Payload, spec.Seed = 4, 160, 9
		t.Run(spec.Path+"/"+spec.Transform+"/"+spec.Profile.String(), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			b, err := Start(ctx, os.Args[0], spec)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := b.Close(); err != nil {
					t.Error(err)
				}
			}()
			if err := b.Lab.Sink(); err != nil {
				t.Fatal(err)
			}
			if err := b.Settle(ctx); err != nil {
				t.Fatal(err)
			}
			for name, w := range map[string]*Way{"to phones": b.ToPhones, "to browsers": b.ToBrowsers} {
				tally, _, err := w.Verify(ctx, 50, 1000)
				if want := (traffic.Tally{Good: 200, Octets: tally.Octets}); err != nil || tally != want {
					t.Errorf("%s: %+v, %v", name, tally, err)
				}
			}
		})
	}
}
