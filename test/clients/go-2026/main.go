// Command go-2026 drives a VMM through the Go client that is generated from the API document of
// 2026. What it reads and writes stands in package steps.
//
// Usage: go-2026 SOCKET
//
//	ping               waits for the VMM, as a client that has just started it
//	create CONFIG      vm.create; CONFIG is JSON of the client's model, and so below
//	info STATE         vm.info; the answer has the config as the client decoded it
//	resize RESIZE      vm.resize
//	add-disk DISK      vm.add-disk; the answer has the device, unless the VM is not booted
//	add-net N TAP NET  vm.add-net with N files of an interface that is made for it
//	remove-device ID   vm.remove-device
//	counters, boot, pause, resume, reboot, nmi, power-button, shutdown, delete, vmm.shutdown
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"

	openapi "driver/client"
	"driver/steps"
)

type driver struct {
	socketPath string
	api        *openapi.DefaultApiService
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "Usage: go-2026 SOCKET < STEPS")
		os.Exit(2)
	}
	config := openapi.NewConfiguration()
	config.HTTPClient = steps.OverUnix(os.Args[1])
	driver := driver{socketPath: os.Args[1], api: openapi.NewAPIClient(config).DefaultApi}
	steps.Run(driver.take)
}

func (d *driver) take(
	ctx context.Context, name, argument string, answer *steps.Answer,
) (*http.Response, error) {
	switch name {
	case "ping":
		return steps.UntilListening(func() (string, *http.Response, error) {
			pong, response, err := d.api.VmmPingGet(ctx).Execute()
			return pong.Version, response, err
		})
	case "info":
		return d.info(ctx, argument, answer)
	case "counters":
		_, response, err := d.api.VmCountersGet(ctx).Execute()
		return response, err
	case "create", "resize", "add-disk", "add-net", "remove-device":
		return d.takeBody(ctx, name, argument, answer)
	}
	return d.takePlain(ctx, name)
}

func (d *driver) takePlain(ctx context.Context, name string) (*http.Response, error) {
	switch name {
	case "boot":
		return d.api.BootVM(ctx).Execute()
	case "pause":
		return d.api.PauseVM(ctx).Execute()
	case "resume":
		return d.api.ResumeVM(ctx).Execute()
	case "reboot":
		return d.api.RebootVM(ctx).Execute()
	case "nmi":
		return d.api.VmNmiPut(ctx).Execute()
	case "power-button":
		return d.api.PowerButtonVM(ctx).Execute()
	case "shutdown":
		return d.api.ShutdownVM(ctx).Execute()
	case "delete":
		return d.api.DeleteVM(ctx).Execute()
	case "vmm.shutdown":
		return d.api.ShutdownVMM(ctx).Execute()
	}
	return nil, fmt.Errorf("there is no step %q", name)
}

func (d *driver) takeBody(
	ctx context.Context, name, argument string, answer *steps.Answer,
) (*http.Response, error) {
	switch name {
	case "create":
		var config openapi.VmConfig
		if err := steps.Decode(argument, &config); err != nil {
			return nil, err
		}
		return d.api.CreateVM(ctx).VmConfig(config).Execute()
	case "resize":
		var wanted openapi.VmResize
		if err := steps.Decode(argument, &wanted); err != nil {
			return nil, err
		}
		return d.api.VmResizePut(ctx).VmResize(wanted).Execute()
	case "add-disk":
		var disk openapi.DiskConfig
		if err := steps.Decode(argument, &disk); err != nil {
			return nil, err
		}
		device, response, err := d.api.VmAddDiskPut(ctx).DiskConfig(disk).Execute()
		answer.Device = device
		return response, err
	case "add-net":
		return d.addNet(argument, answer)
	}
	removed := openapi.VmRemoveDevice{Id: &argument}
	return d.api.VmRemoveDevicePut(ctx).VmRemoveDevice(removed).Execute()
}

func (d *driver) info(
	ctx context.Context, state string, answer *steps.Answer,
) (*http.Response, error) {
	info, response, err := d.api.VmInfoGet(ctx).Execute()
	if err != nil {
		return response, err
	}
	answer.State = string(info.State)
	answer.Config = info.Config
	if answer.State != state {
		err = fmt.Errorf("the state is %q, not %q", info.State, state)
	}
	return response, err
}
