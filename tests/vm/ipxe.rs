//! iPXE boots a machine without a disk from our target, as docs/diskless-boot.md says.

use std::fs;
use std::time::Duration;

use aoe_tests::net::{Lab, Switch, tool};
use aoe_tests::vm::guide::{Guide, LabPlace};

const IPXE: &str = "/usr/lib/ipxe/ipxe.lkrn";
const SECTOR: usize = 512;
const TEXT: &[u8] = b"sector 1 came by AoE\n\0";

/// The boot sector of `boot_sector.s`, assembled.
fn boot_sector(lab: &Lab) -> Vec<u8> {
    fs::write(lab.path("boot.s"), include_str!("boot_sector.s")).expect("a file in the lab's folder");
    for (program, arguments) in
        [("as", "--32 -o boot.o boot.s"), ("ld", "-m elf_i386 -Ttext 0x7c00 --oformat binary -o boot.bin boot.o")]
    {
        let done = tool(program).args(arguments.split(' ')).current_dir(lab.folder()).status();
        assert!(done.expect(program).success(), "{program} {arguments}");
    }
    let sector = fs::read(lab.path("boot.bin")).expect("a boot sector");
    assert_eq!(sector.len(), SECTOR);
    sector
}

#[test]
fn vm_ipxe_boots_from_the_target() {
    let lab = Lab::switched(&["storage"], 1500);
    let mut disk = boot_sector(&lab);
    // iPXE makes up a geometry of 255 heads and 63 sectors, and boots from no disk of less than one cylinder.
    disk.resize(16 << 20, 0);
    disk[SECTOR..SECTOR + TEXT.len()].copy_from_slice(TEXT);
    fs::write(lab.path("disk.img"), &disk).expect("a disk image");
    let guide = Guide::open("diskless-boot");
    fs::write(lab.path("boot.ipxe"), guide.file("diskless", "/boot.ipxe")).expect("a script");
    let storage = LabPlace::new(lab.host("storage"));
    guide.follow("Export a bootable disk", &[("storage", &storage)]);

    lab.plug("diskless", Switch::Storage, 1500);
    let machine = lab
        .switch()
        .typed(
            "qemu-system-x86_64 -M pc,graphics=off -accel tcg -m 256 -nodefaults -no-reboot -display none \
             -serial stdio -initrd boot.ipxe -device isa-debug-exit,iobase=0xf4,iosize=4 \
             -netdev tap,id=net,ifname=diskless,script=no,downscript=no -device virtio-net-pci,netdev=net,romfile=",
        )
        .args(["-kernel", IPXE])
        .patience(Duration::from_secs(30))
        .run()
        .exited(33);
    for said in ["Registered SAN device", "boot sector runs", "sector 1 came by AoE"] {
        assert!(machine.stdout.contains(said), "{said}\n{}", machine.output());
    }
    let written = fs::read(lab.path("disk.img")).expect("the disk image");
    disk.copy_within(SECTOR..2 * SECTOR, 2 * SECTOR);
    assert!(written == disk, "sector 2 was written, and nothing else");
}
