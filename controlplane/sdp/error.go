package sdp

import "fmt"

// Error says what is wrong with a description and which SIP status tells so.
type Error struct {
	Code int    // 400: not SDP, or against its grammar; 488: understood, not acceptable
	Line int    // 1-based line of the body, 0 when it is about the whole
	Msg  string // what is wrong and what would be right
}

func (e *Error) Error() string {
	if e.Line > 0 {
		return fmt.Sprintf("sdp: line %d: %s", e.Line, e.Msg)
	}
	return "sdp: " + e.Msg
}

func malformed(line int, format string, args ...any) error {
	return &Error{Code: 400, Line: line, Msg: fmt.Sprintf(format, args...)}
}

// NotAcceptable makes the error of a description that is well formed and cannot
// be agreed to (488 Not Acceptable Here).
func NotAcceptable(format string, args ...any) error {
	return &Error{Code: 488, Msg: fmt.Sprintf(format, args...)}
}
