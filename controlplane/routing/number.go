package routing

import (
	"fmt"
	"strings"
)

// normalise drops the visual separators of RFC 3966 5.1.1 and parameters from
// what looks like a number; a name stays as it is.
func normalise(user string) string {
	number, _, _ := strings.Cut(user, ";")
	digits := 0
	for i, c := range number {
		switch {
		case c >= '0' && c <= '9', c == '*', c == '#':
			digits++
		case c == '+' && i == 0, strings.ContainsRune("-.() ", c):
		default:
			return user
		}
	}
	if digits == 0 {
		return user
	}
	return strings.Map(func(c rune) rune {
		if strings.ContainsRune("-.() ", c) {
			return -1
		}
		return c
	}, number)
}

// escapeUser writes the user part of a SIP URI (RFC 3261 25.1).
func escapeUser(user string) string {
	var b strings.Builder
	for i := range len(user) {
		c := user[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
			strings.IndexByte("-_.!~*'()&=+$,;?/", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
