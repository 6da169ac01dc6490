// Command homeserver takes the place of the homeserver in Continuwuity's image: it reads the same
// variables, and becomes Dendrite.
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"gopkg.in/yaml.v3"

	"github.com/continuwuity/wellknown/demo/internal/stack"
)

func main() {
	fmt.Fprintln(os.Stderr, "homeserver:", run())
	os.Exit(1)
}

// run returns only if it fails.
func run() error {
	dir := os.Getenv("CONTINUWUITY_DATABASE_PATH")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	config := filepath.Join(dir, "dendrite.yaml")
	// Its key is what others know it by: made once, and kept with the database.
	if _, err := os.Stat(config); errors.Is(err, fs.ErrNotExist) {
		if err := configure(dir); err != nil {
			return err
		}
	}
	address := net.JoinHostPort(os.Getenv("CONTINUWUITY_ADDRESS"), os.Getenv("CONTINUWUITY_PORT"))
	return syscall.Exec(program("dendrite"), []string{"dendrite", "-config", config, "-http-bind-address", address}, os.Environ())
}

func program(name string) string { return "/dendrite/" + name }

// configure makes a configuration for a network that has nobody in it but the test's own servers.
func configure(dir string) error {
	config, err := stack.Configure(program, dir, os.Getenv("CONTINUWUITY_SERVER_NAME"))
	if err != nil {
		return err
	}
	content, err := os.ReadFile(config)
	if err != nil {
		return err
	}
	var all map[string]any
	if err := yaml.Unmarshal(content, &all); err != nil {
		return err
	}
	global, ok := all["global"].(map[string]any)
	federation, too := all["federation_api"].(map[string]any)
	if !ok || !too {
		return errors.New("the configuration is not what generate-config used to write")
	}
	global["private_key"] = filepath.Join(dir, "matrix_key.pem") // wherever a tool is run
	federation["deny_networks"] = []string{}                     // Docker's networks are private ones
	federation["key_perspectives"] = []string{}                  // matrix.org is not there
	federation["prefer_direct_fetch"] = true
	all["logging"] = []map[string]string{{"type": "std", "level": "warn"}}
	content, err = yaml.Marshal(all)
	if err != nil {
		return err
	}
	return os.WriteFile(config, content, 0o600)
}
