package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Errors of a Client that callers tell apart.
type (
	// UnreachableError: no gateway answers on the socket.
	UnreachableError struct {
		Socket string
		Err    error
	}
	// NotFoundError: what was asked for does not exist, or is ambiguous.
	NotFoundError struct{ Failure Failure }
)

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("no gateway answers at %s: is sluice running, and may you open the socket? (%v)", e.Socket, e.Err)
}

func (e *UnreachableError) Unwrap() error { return e.Err }

func (e *NotFoundError) Error() string {
	if len(e.Failure.Among) > 0 {
		return e.Failure.Error + ": " + strings.Join(e.Failure.Among, ", ")
	}
	return e.Failure.Error
}

// Client asks the gateway behind a socket.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient makes a client; nothing is opened before the first request.
func NewClient(socket string) *Client {
	return &Client{socket: socket, http: &http.Client{
		Timeout: 10 * time.Second,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "unix", socket)
			},
		},
	}}
}

// maxAnswer bounds what a gateway is believed to say.
const maxAnswer = 256 << 20

func (c *Client) do(ctx context.Context, method, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://gateway"+path, nil)
	if err != nil {
		return err
	}
	res, err := c.http.Do(req)
	if err != nil {
		if u, ok := err.(*url.Error); ok {
			err = u.Err
		}
		return &UnreachableError{c.socket, err}
	}
	defer res.Body.Close()
	body := json.NewDecoder(io.LimitReader(res.Body, maxAnswer))
	if res.StatusCode == http.StatusOK {
		return body.Decode(into)
	}
	var f Failure
	if err := body.Decode(&f); err != nil {
		return fmt.Errorf("the gateway answered %s", res.Status)
	}
	if res.StatusCode == http.StatusNotFound || res.StatusCode == http.StatusConflict {
		return &NotFoundError{f}
	}
	return fmt.Errorf("%s", f.Error)
}

// Calls lists the calls.
func (c *Client) Calls(ctx context.Context) (l List[Call], err error) {
	return l, c.do(ctx, "GET", "/v1/calls", &l)
}

// Call is one call, named by its id or a unique start of it, a SIP Call-ID, a
// user or a leg's address.
func (c *Client) Call(ctx context.Context, id string) (call Call, err error) {
	return call, c.do(ctx, "GET", "/v1/calls/"+url.PathEscape(id), &call)
}

// Hangup ends one call, named as for Call, and returns its id.
func (c *Client) Hangup(ctx context.Context, id string) (string, error) {
	var call Call
	err := c.do(ctx, "POST", "/v1/calls/"+url.PathEscape(id)+"/hangup", &call)
	return call.ID, err
}

// Flows lists the media streams.
func (c *Client) Flows(ctx context.Context) (l List[Flow], err error) {
	return l, c.do(ctx, "GET", "/v1/flows", &l)
}

// Registrations lists the bindings of users.
func (c *Client) Registrations(ctx context.Context) (l List[Registration], err error) {
	return l, c.do(ctx, "GET", "/v1/registrations", &l)
}

// Dataplane says how media is carried.
func (c *Client) Dataplane(ctx context.Context) (d Dataplane, err error) {
	return d, c.do(ctx, "GET", "/v1/dataplane", &d)
}
