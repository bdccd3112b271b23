use torture::{features::*,forms::*,generator::*,subject::*};
use reduce::{case::*,image::*};
use std::sync::atomic::AtomicU32;
use std::collections::BTreeMap;
fn main(){
 let b=qemu::build::Build::inspect_any(std::path::Path::new(&std::env::args().nth(1).unwrap())).unwrap();
 let i=AtomicU32::new(0);
 let s=Subject{build:&b,options:&[],own:&[],interrupts:&i};
 let mut f=Features::all();
 let set=Setting{runs:Where::Linux,tells:Tells::Ends,avx:false,mxcsr_mask:!0};
 let st:Vec<_>=s.run(set,&Features::asking()).unwrap().iter().map(|c|c.end().unwrap().state).collect();
 f.keep(&Features::told(&st));
 let im=Image::new(set,&Features::asking()).unwrap();
 let said=reduce::native::run(&reduce::elf::program(&im)).unwrap().said;
 let st:Vec<_>=said.chunks(said.len()/3).map(|c|End::from_bytes(c).unwrap().state).collect();
 f.keep(&Features::told(&st));
 println!("{:?}",f.names());
 let forms=Forms::of(&f);
 let mut g=Generator::new(1);
 let set=Setting{avx:true,tells:Tells::Numbers,..set};
 let cases:Vec<_>=(0..1500).map(|n|g.sequence(n,&forms).case).collect();
 let came=s.run(set,&cases).unwrap();
 let mut ok=std::collections::HashSet::new();
 let mut bad=BTreeMap::new();
 for (c,k) in cases.iter().zip(&came){ if let Came::To(_)=k { ok.extend(forms_of(&c.pieces)); } }
 for (c,k) in cases.iter().zip(&came){ if let Came::Died(_)=k { for x in forms_of(&c.pieces){ if !ok.contains(&x){ *bad.entry(format!("{x:?}")).or_insert(0)+=1; } } } }
 println!("{bad:#?}");
}
