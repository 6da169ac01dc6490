package stack

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

const configName = "dendrite.yaml"

// StartHomeserver starts Dendrite on SQLite, for the domain, on a port of the loopback interface.
func StartHomeserver(program func(string) string, log io.Writer, domain, port string) (*Process, error) {
	dir, err := os.MkdirTemp("", "wellknown-homeserver-*")
	if err != nil {
		return nil, err
	}
	config, err := configure(program, dir, domain)
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	return start(dir, log, nil, program("dendrite"), "-config", config,
		"-http-bind-address", "127.0.0.1:"+port)
}

func configure(program func(string) string, dir, domain string) (string, error) {
	if output, err := exec.Command(program("generate-keys"), "--private-key", filepath.Join(dir, "matrix_key.pem")).CombinedOutput(); err != nil {
		return "", fmt.Errorf("generate-keys: %w: %s", err, output)
	}
	config := filepath.Join(dir, configName)
	content, err := exec.Command(program("generate-config"), "-dir", dir, "-server", domain).Output()
	if err != nil {
		return "", fmt.Errorf("generate-config: %w", err)
	}
	// Accounts can be made by who can read this file, and by nobody else.
	const secret = `registration_shared_secret: ""`
	if !bytes.Contains(content, []byte(secret)) {
		return "", errors.New("generate-config: no " + secret + " to fill in")
	}
	content = bytes.Replace(content, []byte(secret), []byte(`registration_shared_secret: "`+rand.Text()+`"`), 1)
	return config, os.WriteFile(config, content, 0o600)
}

// CreateAccount makes an account on a homeserver that answers on a port of the loopback interface.
func CreateAccount(program func(string) string, homeserver *Process, port, name, password string) error {
	cmd := exec.Command(program("create-account"), "-config", configName,
		"-url", "http://127.0.0.1:"+port, "-username", name, "-password", password)
	cmd.Dir = homeserver.dir // where the configuration says that the key is
	output, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("create-account: %w: %s", err, output)
	}
	return nil
}
