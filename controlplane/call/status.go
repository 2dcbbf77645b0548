package call

import "strings"

// bestOf chooses the response of a fork that speaks for it (RFC 3261 16.7
// step 6): a 6xx, else one of the lowest class; within 4xx the one that tells
// the caller most. All legs have a final response.
func bestOf(legs []*leg) *leg {
	best := legs[0]
	for _, l := range legs[1:] {
		if rank(l.code) < rank(best.code) {
			best = l
		}
	}
	return best
}

func rank(code int) int {
	if code >= 600 {
		return 0
	}
	if code < 400 {
		code = passedCode(code)
	}
	r := code / 100 * 100
	switch code {
	case 486, 484:
	case 488, 415, 420:
		r += 10
	case 403, 480:
		r += 20
	case 404, 410:
		r += 30
	case 408:
		r += 80
	case 487:
		r += 90
	case 503:
		r += 95 // any other 5xx tells more (RFC 3261 16.7 step 6)
	default:
		r += 50
	}
	return r
}

// passedCode is the status by which the caller learns of a callee's. What speaks of
// the callee passes as it is; what speaks of our own request, or asks the caller
// for what it cannot give, becomes a status of the gateway.
func passedCode(code int) int {
	switch code {
	case 401, 407: // the caller has no credentials for that hop
		return 500
	case 400, 402, 405, 411, 412, 413, 414, 416, 420, 421, 422, 423, 424, 428, 429, 439, 440, 469, 470, 481, 489, 494:
		return 500
	case 406, 415, 493:
		return 488
	case 487, 491:
		return 480
	}
	switch {
	case code < 400: // a redirection is the router's business, not the caller's
		return 480
	case code >= 700:
		return 500
	}
	return code
}

// refusedAs is the status by which one side learns that the other refused its
// re-INVITE or INFO: the same class, and nothing that would end a dialog which
// is still up.
func refusedAs(code int) int {
	switch code {
	case 401, 407, 403:
		return 403
	case 408, 481, 487:
		return 500
	}
	if code < 400 || code >= 700 {
		return 500
	}
	return code
}

// phrases are the reason phrases of what the gateway says itself.
var phrases = map[int]string{
	400: "Bad Request", 403: "Forbidden", 404: "Not Found", 408: "Request Timeout", 410: "Gone",
	480: "Temporarily Unavailable", 482: "Loop Detected", 483: "Too Many Hops", 484: "Address Incomplete",
	486: "Busy Here", 487: "Request Terminated", 488: "Not Acceptable Here", 491: "Request Pending",
	500: "Server Internal Error", 501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable",
	504: "Server Time-out", 600: "Busy Everywhere", 603: "Decline", 604: "Does Not Exist Anywhere",
	606: "Not Acceptable", 607: "Unwanted", 608: "Rejected",
}

func phrase(code int) string {
	if p, ok := phrases[code]; ok {
		return p
	}
	return "Call Failed"
}

// passed are the headers of a final response that mean something to the caller:
// when to try again, and why (RFC 3326).
func passed(hs []Header) (out []Header) {
	for _, h := range hs {
		if strings.EqualFold(h.Name, "Retry-After") || strings.EqualFold(h.Name, "Reason") {
			out = append(out, h)
		}
	}
	return out
}
