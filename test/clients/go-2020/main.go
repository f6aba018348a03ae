// Command go-2020 drives a VMM through the Go client that is generated from the API document of
// March 2020. What it reads and writes stands in package steps.
//
// Usage: go-2020 SOCKET
//
//	ping                 waits for the VMM, as a client that has just started it
//	create CONFIG        vm.create; CONFIG is JSON of the client's model
//	create-every CONFIG  the same, and CONFIG must set every field that the model has
//	info STATE           vm.info; the config must be the one that was created
//	resize RESIZE        vm.resize; what it asks for must then be in vm.info
//	put ENDPOINT BODY    a call of the next months, over the same connection
//	remove-device ID     vm.remove-device
//	boot, pause, resume, reboot, shutdown, delete, vmm.shutdown
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"reflect"
	"strings"

	openapi "driver/client"
	"driver/steps"
)

type driver struct {
	http    *http.Client
	api     *openapi.DefaultApiService
	created openapi.VmConfig
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "Usage: go-2020 SOCKET < STEPS")
		os.Exit(2)
	}
	config := openapi.NewConfiguration()
	config.HTTPClient = steps.OverUnix(os.Args[1])
	driver := driver{http: config.HTTPClient, api: openapi.NewAPIClient(config).DefaultApi}
	steps.Run(driver.take)
}

func (d *driver) take(
	ctx context.Context, name, argument string, answer *steps.Answer,
) (*http.Response, error) {
	switch name {
	case "ping":
		return steps.UntilListening(func() (string, *http.Response, error) {
			pong, response, err := d.api.VmmPingGet(ctx)
			return pong.Version, response, err
		})
	case "create", "create-every":
		return d.create(ctx, argument, name == "create-every")
	case "info":
		return d.info(ctx, argument, answer)
	case "boot":
		return d.api.BootVM(ctx)
	case "resize":
		return d.resize(ctx, argument)
	case "put":
		return d.put(ctx, argument)
	case "remove-device":
		return d.api.VmRemoveDevicePut(ctx, openapi.VmRemoveDevice{Id: argument})
	case "pause":
		return d.api.PauseVM(ctx)
	case "resume":
		return d.api.ResumeVM(ctx)
	case "reboot":
		return d.api.RebootVM(ctx)
	case "shutdown":
		return d.api.ShutdownVM(ctx)
	case "delete":
		return d.api.DeleteVM(ctx)
	case "vmm.shutdown":
		return d.api.ShutdownVMM(ctx)
	}
	return nil, fmt.Errorf("there is no step %q", name)
}

func (d *driver) create(ctx context.Context, text string, every bool) (*http.Response, error) {
	var config openapi.VmConfig
	if err := steps.Decode(text, &config); err != nil {
		return nil, err
	}
	if unset := unsetFields("config", reflect.ValueOf(config)); every && len(unset) > 0 {
		return nil, fmt.Errorf("not set: %s", strings.Join(unset, ", "))
	}
	d.created = config
	return d.api.CreateVM(ctx, config)
}

func (d *driver) info(
	ctx context.Context, state string, answer *steps.Answer,
) (*http.Response, error) {
	info, response, err := d.api.VmInfoGet(ctx)
	answer.State = info.State
	if err != nil {
		return response, err
	}
	if info.State != state {
		return response, fmt.Errorf("the state is %q, not %q", info.State, state)
	}
	if !reflect.DeepEqual(info.Config, d.created) {
		return response, fmt.Errorf("created was %+v, but vm.info has %+v", d.created, info.Config)
	}
	return response, nil
}

// As the runtime did: it asks for one of both, and the next vm.info must tell of it.
func (d *driver) resize(ctx context.Context, text string) (*http.Response, error) {
	var wanted openapi.VmResize
	if err := steps.Decode(text, &wanted); err != nil {
		return nil, err
	}
	response, err := d.api.VmResizePut(ctx, wanted)
	if err == nil && wanted.DesiredVcpus != 0 {
		d.created.Cpus.BootVcpus = wanted.DesiredVcpus
	}
	if err == nil && wanted.DesiredRam != 0 {
		d.created.Memory.Size = int64(wanted.DesiredRam)
	}
	return response, err
}

// What the document of that day lacks, and the runtime called as soon as there was a client.
func (d *driver) put(ctx context.Context, argument string) (*http.Response, error) {
	endpoint, body, _ := strings.Cut(argument, " ")
	url := "http://localhost/api/v1/" + endpoint
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, url, bytes.NewBufferString(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := d.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return response, err
}

// The paths of the fields that have their type's zero value, which the client would not send, in
// all of the values; in a list, it is enough that one element sets a field.
func unsetFields(path string, values ...reflect.Value) []string {
	var set []reflect.Value
	for _, value := range values {
		if !value.IsZero() {
			set = append(set, value)
		}
	}
	if len(set) == 0 {
		return []string{path}
	}
	var unset []string
	switch kind := set[0].Type(); kind.Kind() {
	case reflect.Struct:
		for i := 0; i < kind.NumField(); i++ {
			var fields []reflect.Value
			for _, value := range set {
				fields = append(fields, value.Field(i))
			}
			unset = append(unset, unsetFields(path+"."+kind.Field(i).Name, fields...)...)
		}
	case reflect.Slice:
		var elements []reflect.Value
		for _, value := range set {
			for i := 0; i < value.Len(); i++ {
				elements = append(elements, value.Index(i))
			}
		}
		unset = unsetFields(path+"[]", elements...)
	}
	return unset
}
