// Package config is the gateway's configuration: one YAML file, decoded
// strictly. A wrong file is refused with everything that is wrong with it at
// once, each with line, column and what to do. example.yaml holds every key with
// its default and is the documentation.
package config

import (
	_ "embed"
	"fmt"
	"os"
	"time"
)

// Example is the commented default configuration.
//
//go:embed example.yaml
var Example string

// DefaultNetwork is the name of the network that media and sip describe.
const DefaultNetwork = "default"

// Config is a whole configuration. A value from Load or Parse is complete: every
// default has been filled in.
type Config struct {
	Domain    string    `yaml:"domain"`
	HTTP      HTTP      `yaml:"http"`
	SIP       SIP       `yaml:"sip"`
	Media     Media     `yaml:"media"`
	Networks  []Network `yaml:"networks"`
	TLS       TLSFiles  `yaml:"tls"`
	Users     []User    `yaml:"users"`
	Trunks    []Trunk   `yaml:"trunks"`
	Routes    []Route   `yaml:"routes"`
	Limits    Limits    `yaml:"limits"`
	Dataplane Dataplane `yaml:"dataplane"`
	Admin     Admin     `yaml:"admin"`
	Log       Log       `yaml:"log"`
}

// HTTP is the server of the web phone, /ws, /healthz, /readyz and /metrics.
type HTTP struct {
	Listen  Listen   `yaml:"listen"`
	TLS     bool     `yaml:"tls"`
	Origins []string `yaml:"origins"`
	Metrics []Prefix `yaml:"metrics"`
	Network string   `yaml:"network"`
}

// SIP holds the listeners of the first network, and what goes for all of them.
type SIP struct {
	UDP    Listen   `yaml:"udp"`
	TCP    Listen   `yaml:"tcp"`
	TLS    Listen   `yaml:"tls"`
	Digest []Digest `yaml:"digest"`
}

// Listeners are those of one network; an invalid address is none.
type Listeners struct {
	UDP Listen `yaml:"udp"`
	TCP Listen `yaml:"tcp"`
	TLS Listen `yaml:"tls"`
}

// Media is how one network carries media.
type Media struct {
	Address     Addresses `yaml:"address"`
	Advertised  Addresses `yaml:"advertised"`
	Interface   string    `yaml:"interface"`
	BrowserPort int       `yaml:"browser_port"`
	RTPPorts    PortRange `yaml:"rtp_ports"`
}

// Network is a further named side of the box.
type Network struct {
	Name  string    `yaml:"name"`
	SIP   Listeners `yaml:"sip"`
	Media Media     `yaml:"media"`
}

// TLSFiles name the certificate of sip.tls and of http.tls.
type TLSFiles struct {
	Certificate string `yaml:"certificate"`
	Key         string `yaml:"key"`
	SelfSigned  bool   `yaml:"self_signed"`
}

// User may register and place calls.
type User struct {
	Name      string `yaml:"name"`
	Password  Secret `yaml:"password"`
	HA1       Secret `yaml:"ha1"`
	HA1SHA256 Secret `yaml:"ha1_sha256"`
	Display   string `yaml:"display"`
	SDES      bool   `yaml:"sdes"`
}

// Trunk is a SIP peer that does not register: a carrier or a PBX.
type Trunk struct {
	Name      string    `yaml:"name"`
	Addresses []Prefix  `yaml:"addresses"`
	Proxy     string    `yaml:"proxy"`
	Transport Transport `yaml:"transport"`
	Domain    string    `yaml:"domain"`
	CallerID  string    `yaml:"caller_id"`
	Username  string    `yaml:"username"`
	Password  Secret    `yaml:"password"`
	Network   string    `yaml:"network"`
	SDES      bool      `yaml:"sdes"`
}

// Route sends what is dialled to a trunk or a user.
type Route struct {
	Prefix string `yaml:"prefix"`
	Domain string `yaml:"domain"`
	From   string `yaml:"from"`
	Strip  int    `yaml:"strip"`
	Add    string `yaml:"add"`
	Trunk  string `yaml:"trunk"`
	User   string `yaml:"user"`
}

// Limits bound what the gateway takes on.
type Limits struct {
	Calls                 int           `yaml:"calls"`
	CallsPerUser          int           `yaml:"calls_per_user"`
	Connections           int           `yaml:"connections"`
	ConnectionsPerAddress int           `yaml:"connections_per_address"`
	RingTime              time.Duration `yaml:"ring_time"`
}

// Dataplane chooses the engine that carries media.
type Dataplane struct {
	Mode       Mode     `yaml:"mode"`
	Interfaces []string `yaml:"interfaces"`
	Pin        string   `yaml:"pin"`
}

// Admin is where the command line reaches the running gateway.
type Admin struct {
	Socket string `yaml:"socket"`
}

// Log says what is logged and how.
type Log struct {
	Level  Level  `yaml:"level"`
	Format Format `yaml:"format"`
}

// Load reads and checks a file. What is wrong with its contents comes as
// Problems; other errors are about reading it.
func Load(file string) (*Config, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read the configuration: %w", err)
	}
	return Parse(file, b)
}

// Parse decodes and checks a configuration; file is its name in Problems.
func Parse(file string, b []byte) (*Config, error) {
	c := defaults()
	d := decode(file, b, c)
	if d.unreadable {
		return nil, d.problems
	}
	c.complete()
	c.check(d)
	if len(d.problems) > 0 {
		d.problems.sort()
		return nil, d.problems
	}
	return c, nil
}

func (s SIP) listeners() Listeners { return Listeners{s.UDP, s.TCP, s.TLS} }

// AllNetworks lists the implied network first, then the named ones.
func (c *Config) AllNetworks() []Network {
	return append([]Network{{Name: DefaultNetwork, SIP: c.SIP.listeners(), Media: c.Media}}, c.Networks...)
}
